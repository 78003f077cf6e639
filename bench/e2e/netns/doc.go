// Package netns provides machines for tests and the bench: network namespaces joined by pairs of
// virtual Ethernet devices. They have no names and no route out, and disappear with the last
// process in them. Addresses come from the networks reserved for documentation.
package netns
