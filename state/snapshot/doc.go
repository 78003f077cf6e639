// Package snapshot encodes the state that a gateway hands over to its successor
// (package router).
//
// A Writer appends values, a Reader takes them off in the same order, and a Codec
// is either of them behind one description. Numbers are little-endian, values of
// variable length are preceded by their length, and times are differences from an
// instant that both sides pass in, so that two processes need not share a clock:
//
//	w := snapshot.NewWriter(nil, now)     r := snapshot.NewReader(b, now)
//	w.Uint32(index)                       index := r.Uint32()
//	w.Time(deadline)                      deadline := r.Time()
//	send(w.Bytes())                       if err := r.End(); err != nil { … }
//
// A Reader accepts arbitrary bytes: it never panics, allocates at most a small
// multiple of its input, and returns zero values after the first error. A snapshot
// holds secrets: its owner wipes the bytes.
package snapshot
