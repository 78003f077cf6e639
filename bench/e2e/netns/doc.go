// Package netns gives a bench machines: network namespaces with nothing in them but what
// the bench puts there, joined by pairs of virtual Ethernet devices. They have no
// names and no way out, and are gone when the last process in them is.
//
// Addresses are of the networks that are kept for documentation, which nobody has.
package netns
