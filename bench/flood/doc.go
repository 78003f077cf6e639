// Package flood has the tests of a gateway that is misused: flooded with what it must
// not do much about, and run out of what it needs. The gateway is the real program in a
// process of its own.
//
//	go test ./bench/flood -v                         # two minutes, as root
//	go test ./bench/flood -v -run Flood              # floods, each beside as much plain garbage
//	go test ./bench/flood -v -run Exhaustion
//
// What goes on for as long as anybody likes is in other packages:
//
//	go test ./router -v -run Soak -soak=10m          # everything mixed; -seed=… does the same again
//	FUZZ_BUDGET=36000 .ci/run fuzz                   # every fuzz target, ten hours for all of them
//
// Floods come from raw sockets on a machine of package netns, with sources that are made
// up where that is the point of them. Nothing of it leaves the machine.
package flood
