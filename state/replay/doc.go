// Package replay keeps the sliding window that stops replayed packets
// (section 6 of PROTOCOL.md).
//
// A receiver has one Window for each key it opens packets with. Check comes
// before the packet is opened and costs nothing if it refuses; Mark comes after
// the tag held, so that a forged packet never moves the window:
//
//	if err := w.Check(seq); err != nil { … drop … }
//	if body, err := key.Open(packet); err != nil { … drop … }
//	w.Mark(seq)
//
// The zero Window is ready to use. It has one owner and no lock.
package replay
