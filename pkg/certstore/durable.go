package certstore

import "github.com/certmill/certmill/pkg/durable"

// How files are written here: as a whole, or not at all.
var (
	removeTorn  = durable.RemoveTorn
	writeTemp   = durable.Temp
	createFile  = durable.Create
	replaceFile = durable.Replace
	found       = durable.Found
	makeFolder  = durable.MakeFolder
	makeIn      = durable.MakeFolderIn
	syncFolder  = durable.SyncFolder
)
