// Package relay is the baseline of a gateway: a loop that receives and sends. It has no sessions,
// replay windows, flows, policy or counters.
//
// It relays between a load and a sink, each direction in one goroutine. With a key it opens
// packets from the load and seals packets to it, so that the AEAD is all it has in common with a
// gateway. The rest of the gateway's cost is its own.
package relay
