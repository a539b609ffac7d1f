// Command collector fetches the certificates, checks and delivers them, and cleans up.
// Any number of replicas may run; SIGTERM drains.
package main

import (
	"os"

	"github.com/certmill/certmill/pkg/app"
	"github.com/certmill/certmill/pkg/order"
)

func main() { os.Exit(app.Main(order.Collector, os.Args[1:])) }
