// Package parts divides messages that are too long for one datagram and puts
// them together again (section 1 of PROTOCOL.md).
//
// Split gives the parts of a message. An Assembler takes parts in any order,
// repeated, mixed with forged ones, and gives back each message whose hash is
// the one that its parts name. What it keeps is bounded whatever comes.
package parts
