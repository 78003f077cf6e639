package replay

import "errors"

// Size is the number of sequence numbers that a Window remembers: a packet is
// taken when it is newer than every packet before it, or when it is one of the
// last Size and was not seen (section 6).
const Size = 4096

const (
	wordBits = 64
	words    = Size / wordBits
)

var (
	// ErrReplay says that a packet with this sequence number was taken before.
	ErrReplay = errors.New("replay: sequence number was seen before")
	// ErrTooOld says that the sequence number lies before the window.
	ErrTooOld = errors.New("replay: sequence number is older than the window")
)

// Window is a bitmap of the last Size sequence numbers. Bit i of the ring holds
// the one number of the window that is i modulo Size.
type Window struct {
	next  uint64 // one more than the highest marked number; 0 when none was
	floor uint64 // numbers below are refused: they were forgotten by Rest
	ring  *[words]uint64
}

// Check reports whether seq may be taken: nil, ErrReplay or ErrTooOld. It
// changes nothing.
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

// Mark records seq as taken. The caller has checked it and has authenticated
// the packet; marking a number that Check refuses changes nothing.
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

// Rest gives the bitmap's memory back. From then on no number up to the highest
// is taken, seen or not: the caller rests a window only when nothing has come for
// longer than any packet travels.
func (w *Window) Compact() {
	w.floor, w.ring = w.next, nil
}

// Highest returns the highest number marked, and false when none was.
func (w *Window) Highest() (seq uint64, ok bool) {
	return w.next - 1, w.next != 0
}

// forget clears the places that the numbers from w.next up to seq take over from
// numbers that leave the window.
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
