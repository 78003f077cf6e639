// Package config reads a gateway's configuration: a TOML file in which every key
// may be left out.
//
//	c, err := config.Load("/etc/lewes/gateway.toml")
//	fmt.Print(err)
//	// configuration /etc/lewes/gateway.toml:
//	//   line 3: there is no key listen.prot; did you mean listen.port?
//	//   line 9: session.ttl: "24" is not a duration: write a number and a unit, …
//
//	fmt.Print(config.DefaultText()) // a file with every key, explained
//
// A file is taken whole or not at all. What is wrong with it is told all at once,
// each with its line, the value, and what may stand there. The values are what the
// file says, checked to make sense by themselves; whether an address can be bound
// or a file read is found out by whoever does it.
package config
