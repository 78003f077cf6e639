// Package costs makes every kind of packet that a stranger, a client or an entry can send to a
// gateway, with the cost of each to the gateway and the bound that covers it.
//
// Kinds is the table of costs. The scenario "costs" of the bench measures it and prints it, a
// simulation in package router takes its costs from it, and a test compares its bounds with
// section 12 of PROTOCOL.md. A new kind of packet is one more entry.
package costs
