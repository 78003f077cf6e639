// Package replay keeps the sliding window that rejects replayed packets (section 6 of PROTOCOL.md).
//
// A receiver has one Window per key. It calls Check before opening a packet and
// Mark after, so that a forged packet never moves the window:
//
//	if err := w.Check(seq); err != nil { … drop … }
//	if body, err := key.Open(packet); err != nil { … drop … }
//	w.Mark(seq)
//
// The zero Window is ready to use. It is not safe for concurrent use.
package replay

import (
	"errors"

	"lewes/state/snapshot"
)

// Size is the number of sequence numbers in a Window: a packet is accepted if it is newer than all
// others, or one of the last Size and not seen before (section 6).
const Size = 4096

const (
	wordBits = 64
	words    = Size / wordBits
)

var (
	// ErrReplay means that a packet with this sequence number was accepted before.
	ErrReplay = errors.New("replay: sequence number was seen before")
	// ErrTooOld means that the sequence number lies before the window.
	ErrTooOld = errors.New("replay: sequence number is older than the window")
)

// Window is a bitmap of the last Size sequence numbers. Bit i of the ring stands
// for the number of the window that equals i modulo Size.
type Window struct {
	next  uint64 // one more than the highest marked number, or 0
	floor uint64 // numbers below are rejected, since Compact dropped their bits
	ring  *[words]uint64
}

// Check returns nil if seq may be accepted, ErrReplay or ErrTooOld.
func (w *Window) Check(seq uint64) error {
	if seq >= w.next {
		return nil
	}
	if w.next-seq > Size || seq < w.floor {
		return ErrTooOld
	}
	if w.ring[seq/wordBits%words]&(1<<(seq%wordBits)) != 0 {
		return ErrReplay
	}
	return nil
}

// Mark records seq as accepted, after Check and after authenticating the packet.
// It ignores a number that Check rejects.
func (w *Window) Mark(seq uint64) {
	if w.ring == nil {
		w.ring = new([words]uint64)
	}
	if seq >= w.next {
		w.forget(seq)
		w.next = seq + 1
	} else if w.next-seq > Size || seq < w.floor {
		return
	}
	w.ring[seq/wordBits%words] |= 1 << (seq % wordBits)
}

// Compact frees the bitmap. From then on every number up to the highest is rejected, so the caller
// compacts a window only after a silence longer than any packet is under way.
func (w *Window) Compact() {
	w.floor, w.ring = w.next, nil
}

// Highest returns the highest marked number, or false if there is none.
func (w *Window) Highest() (seq uint64, ok bool) { return w.next - 1, w.next != 0 }

// forget clears the bits of the numbers from w.next to seq, which older numbers used.
func (w *Window) forget(seq uint64) {
	if seq-w.next >= Size {
		*w.ring = [words]uint64{}
		return
	}
	for n := w.next; n <= seq; {
		bit := n % wordBits
		run := min(wordBits-bit, seq-n+1)
		mask := ^uint64(0) >> (wordBits - run) << bit
		w.ring[n/wordBits%words] &^= mask
		n += run
	}
}

// maxSequence is above every sequence number of a header.
const maxSequence = 1 << 62

// Snapshot writes or reads the window.
func (w *Window) Snapshot(c *snapshot.Codec) {
	c.Uint64(&w.next)
	c.Uint64(&w.floor)
	c.Check(w.next <= maxSequence && w.floor <= w.next, "replay window from %d to %d", w.floor, w.next)
	if !c.Present(w.ring != nil) || c.Err() != nil {
		if c.Decoding() {
			w.floor, w.ring = min(w.next, maxSequence), nil // without a bitmap every number counts as seen
		}
		return
	}
	if c.Decoding() {
		w.ring = new([words]uint64)
	}
	for i := range w.ring {
		c.Uint64(&w.ring[i])
	}
}
