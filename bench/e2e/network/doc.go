// Package network makes the network of the end-to-end tests and of deploy/localnet: a client,
// gateways and a target on machines of package netns. A faulty link of package link joins the
// client to its first gateway, and virtual Ethernet joins the others.
//
//	n, err := network.New(ctx, launcher, "client", "entry", "exit", "target")
//	defer n.Close()
//	err = n.Wire(ctx, "entry", "exit", network.EntryToExit)
//	g, err := network.NewGateway(n.Machine["exit"], program, dir, network.GatewayConfig{…})
//	err = g.Start()
package network
