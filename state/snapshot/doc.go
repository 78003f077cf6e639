// Package snapshot encodes the state that a gateway hands over to its successor (package router).
//
// A Codec moves values to a Writer, or in the same order from a Reader, behind one
// description for both. Numbers are little-endian, values of variable length are
// preceded by their length, and times are differences from an instant that both sides
// pass in, so that two processes need not share a clock:
//
//	w := snapshot.NewWriter(nil, now)     r := snapshot.NewReader(b, now)
//	t.snapshot(snapshot.Encode(w))        t.snapshot(snapshot.Decode(r))
//	send(w.Bytes())                       if err := r.End(); err != nil { … }
//
// A Reader accepts arbitrary bytes: it never panics, allocates at most a small
// multiple of its input, and returns zero values after the first error. A snapshot
// holds secrets: its owner wipes the bytes.
package snapshot
