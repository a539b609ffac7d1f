// Package app puts certmill together: it reads the config, connects, builds the
// workers out of the packages below, runs them, and drains them.
//
// A process may connect many times: a session is one connection to NATS and
// everything that stands on it. When the connection drops, the session ends,
// its handlers are cancelled, and the next one begins by checking that the
// streams are still those of the same incarnation.
package app
