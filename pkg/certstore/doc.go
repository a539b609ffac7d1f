// Package certstore is where certificates and keys come to rest: it makes key
// pairs, seals private keys to the operator's recipients, keeps the sealed
// pairs and attempt numbers where a lost JetStream cannot take them along
// (KeyStore), refuses certificates that are not what was ordered
// (CheckCertificate) and writes the good ones into a directory (Dir).
//
// Every file is written whole: into a temporary file, synced, and then linked
// or renamed to its name, after which the folder is synced. Whatever is under
// its name is complete, even after kill -9 or a power cut.
package certstore
