// Package gatewaytest runs gateways on loopback, in the process of a test or an example.
//
//	exit := gatewaytest.Start(t, gatewaytest.Options{Target: gatewaytest.Echo})
//	entry := gatewaytest.Start(t, gatewaytest.Options{Next: []*gatewaytest.Gateway{exit}})
//
// It doesn't import the client, so that the client's own tests can use it. Only tests
// and examples import it.
package gatewaytest
