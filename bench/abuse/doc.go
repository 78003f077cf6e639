// Package abuse has the tests of a gateway that is misused: flooded with what it must
// not do much about, run out of what it needs, and kept busy with everything at once
// for as long as anybody likes. The gateway is the real program in a process of its own.
//
//	go test ./bench/abuse -v                         # two minutes, as root
//	go test ./bench/abuse -v -run Flood              # floods, each beside as much plain garbage
//	go test ./bench/abuse -v -run Soak -soak=10m     # -seed=… does the same again
//	go test ./bench/abuse -v -run Exhaustion
//
// Floods come from raw sockets on a machine of package netns, with sources that are made
// up where that is the point of them. Nothing of it leaves the machine.
package abuse
