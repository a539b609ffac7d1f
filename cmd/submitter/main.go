// Command submitter takes order messages, makes the keys and starts the orders at the clouds.
// Any number of replicas may run; SIGTERM drains.
package main

import (
	"os"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/order"
)

func main() { os.Exit(app.Main(order.Submitter, os.Args[1:])) }
