// Package config reads the configuration of a gateway: a TOML file in which every key is optional.
//
//	c, err := config.Load("/etc/lewes/gateway.toml")
//	fmt.Print(err)
//	// configuration /etc/lewes/gateway.toml:
//	//   line 3: there is no key listen.prot; did you mean listen.port?
//	//   line 9: session.ttl: "24" is not a duration: write a number and a unit, …
//
//	fmt.Print(config.DefaultText()) // a file with every key, explained
//
// A file with any mistake is rejected. The error lists all mistakes, each with its position, the wrong value
// and the valid ones. Values are checked on their own: the package binds no address and opens no other file.
package config
