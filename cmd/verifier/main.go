// Command verifier proves control of the names and watches for what was issued.
// Any number of replicas may run; SIGTERM drains.
package main

import (
	"os"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/order"
)

func main() { os.Exit(app.Main(order.Verifier, os.Args[1:])) }
