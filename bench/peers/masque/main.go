// Masque runs masque-go as workers of the bench: a CONNECT-UDP proxy (RFC 9298) over quic-go, and
// a client that is the load. It is a module of its own, so that its dependencies stay out of the
// product.
package main

import (
	"fmt"
	"os"

	"lewes/bench/worker"
)

func main() {
	err := worker.Main(map[string]worker.Role{
		worker.RoleMASQUEProxy:  worker.Start(startProxy),
		worker.RoleMASQUEClient: worker.Start(startClient),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// template is the URI template of the proxy.
func template(at string) string {
	return "https://" + at + "/masque?h={target_host}&p={target_port}"
}
