package replay

import "lewes/state/snapshot"

// maxSequence is above every sequence number that a header can hold.
const maxSequence = 1 << 62

// Write writes the window.
func (w *Window) Write(to *snapshot.Writer) {
	to.Uint64(w.next)
	to.Uint64(w.floor)
	to.Bool(w.ring != nil)
	if w.ring != nil {
		for _, word := range w.ring {
			to.Uint64(word)
		}
	}
}

// Read makes the window the one that was written.
func (w *Window) Read(from *snapshot.Reader) {
	*w = Window{next: from.Uint64(), floor: from.Uint64()}
	if w.next > maxSequence || w.floor > w.next {
		from.Fail("a replay window from %d to %d", w.floor, w.next)
	}
	if !from.Bool() || from.Err() != nil {
		w.floor = min(w.next, maxSequence) // without a bitmap everything counts as seen
		return
	}
	w.ring = new([words]uint64)
	for i := range w.ring {
		w.ring[i] = from.Uint64()
	}
}
