// Package sink is the far end of every bench: it counts what arrives, with the delay of
// each arrival, and sends back to where flows were opened from. As a worker it is the same
// for a gateway, for the baselines and for the peers.
//
// Counting is cheap: trains come whole and only the first bytes of each are copied out of
// the kernel.
package sink
