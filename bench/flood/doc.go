// Package flood tests a gateway under attack: flooded with expensive or malformed packets, and
// out of descriptors, connections, ports or disk space. The gateway is the real program in a
// process of its own.
//
//	go test ./bench/flood -v                    # as root
//	go test ./bench/flood -v -long -run Floods  # measures throughput and handshake times as well
//	go test ./bench/flood -v -run Exhaustion
//
// Tests that run for as long as you like are elsewhere:
//
//	go test ./router -v -run Soak -soak=10m     # a seeded mix of everything
//	FUZZ_BUDGET=36000 .ci/run fuzz              # every fuzz target, ten hours in all
//
// Floods come from raw sockets in a network namespace, with spoofed sources where an attack
// needs them. No packet leaves the machine.
package flood
