// Package relay is what a gateway is held against: a loop that receives and sends, and
// nothing else. No session, no replay window, no flow, no policy, no counter.
//
// It stands between a load and a sink and relays both ways, each way in one
// goroutine. With a key it opens what comes from the load and seals what goes back to it: the
// AEAD is then all that it has in common with a gateway. Where a gateway costs more
// than that, the difference is what the gateway does.
//
// There are two kinds: on the sockets of package rawudp, which is as little as there
// can be, and on those of transport/udp, which shows what these add.
package relay
