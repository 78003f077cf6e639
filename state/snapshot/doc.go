// Package snapshot writes and reads the bytes in which a gateway's state goes to
// its successor (package router).
//
// A Writer appends, a Reader takes apart again in the same order. Numbers are
// little-endian; what has no fixed length is led by its length; times are
// differences from one instant that both sides name, so that two processes need
// not agree on what time it is:
//
//	w := snapshot.NewWriter(nil, now)     r := snapshot.NewReader(b, now)
//	w.Uint32(index)                       index := r.Uint32()
//	w.Time(deadline)                      deadline := r.Time()
//	send(w.Bytes())                       if err := r.End(); err != nil { … }
//
// A Reader takes any bytes: it never panics, allocates no more than a small
// multiple of what it was given, and after the first error gives zero values. What
// is written holds secrets: whoever has the bytes wipes them.
package snapshot
