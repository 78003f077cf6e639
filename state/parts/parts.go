// Package parts splits messages that are too long for one datagram, and
// reassembles them (section 1 of PROTOCOL.md).
//
// Split returns the parts of a message. An Assembler takes parts in any order,
// duplicated and mixed with forged ones, and returns each message whose hash
// matches the message_id of its parts, in bounded memory.
package parts

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"lewes/crypto/kdf"
	"lewes/state/wire"
)

// MaxData is the number of message bytes in a part of a handshake or subsession
// message whose datagram has wire.MaxHandshakeDatagram bytes.
const MaxData = wire.MaxHandshakeDatagram - wire.Overhead - wire.PartHeaderSize

// ID returns the message_id of a message: the first four bytes of its BLAKE3.
func ID(message []byte) (id [4]byte) {
	sum := kdf.Hash(message)
	copy(id[:], sum[:])
	return id
}

// Count returns the number of datagrams for a handshake or subsession message of size bytes: the
// fewest, and the only number of parts that a receiver accepts for it (section 1).
func Count(size int) int { return max(1, (size+MaxData-1)/MaxData) }

// Split returns the parts of message, of at most most bytes each and all but the
// last equally long. Their Data aliases message. Split panics if message needs
// more than wire.MaxParts parts, which no message of this side does.
func Split(message []byte, most int) []wire.Part {
	count := max(1, (len(message)+most-1)/most)
	if count > wire.MaxParts {
		panic(fmt.Sprintf("parts: message of %d bytes needs %d parts of %d", len(message), count, most))
	}
	size := (len(message) + count - 1) / count
	id := ID(message)
	out := make([]wire.Part, count)
	for i := range out {
		start := i * size
		out[i] = wire.Part{
			Index:     uint8(i),
			Count:     uint8(count),
			MessageID: id,
			Data:      message[start:min(start+size, len(message))],
		}
	}
	return out
}

// Size limits of messages that are sent in parts (section 1).
const (
	MaxHandshake = 4 << 10
	MaxRegister  = 8 << 10
)

const (
	// maxKept is the number of parts that an Assembler keeps without another bound.
	maxKept = 2 * wire.MaxParts
	// MaxJoins is the number of further joins that an Assembler tries in a second.
	MaxJoins = 32
)

var (
	// ErrTooLong means that a message would exceed the limit of its type.
	ErrTooLong = errors.New("parts: message is too long")
	// ErrHash means that a message does not match its message_id.
	ErrHash = errors.New("parts: message does not match its id")
)

// Joins bounds the joins in each second, beyond the first of each part. It is not safe for
// concurrent use.
type Joins struct {
	PerSecond int
	// Failed is the number of joins, the first ones included, that did not match their message_id.
	Failed uint64

	second int64
	used   int
}

// take reports whether another join fits in the second of now.
func (j *Joins) take(now time.Time) bool {
	if second := now.Unix(); second != j.second {
		j.second, j.used = second, 0
	}
	if j.used >= j.PerSecond {
		return false
	}
	j.used++
	return true
}

// Assembler reassembles messages of one type. Its zero value with a Limit is ready to use. It keeps
// a bounded number of parts and evicts the one that arrived the longest ago. An arriving part is always
// joined with the oldest kept parts that fit it, except those that it was joined with since they
// arrived. Other combinations are tried within a budget.
type Assembler struct {
	Limit int    // the longest accepted message, in bytes
	Most  int    // kept parts; 0 means eight
	Joins *Joins // bounds the joins of several Assemblers together; nil: no such bound

	kept  []keptPart // in order of their last arrival
	own   Joins
	count uint64 // of arrivals
}

// keptPart is a part that waits for others. It owns Data.
type keptPart struct {
	wire.Part
	number uint64 // of its last arrival, from 1
	tried  uint64 // the last arrival that it was joined with
}

// Add adds a part that arrived at now. It returns the message that this part completes, or nil if
// parts are missing. The message of a single part aliases p.Data; otherwise the caller owns it. An
// error means that the part was ignored.
func (a *Assembler) Add(now time.Time, p wire.Part) (message []byte, err error) {
	least := len(p.Data)
	if p.Index+1 < p.Count {
		least = len(p.Data)*int(p.Count-1) + 1
	}
	if least > a.Limit {
		return nil, ErrTooLong
	}
	if p.Count == 1 {
		if ID(p.Data) != p.MessageID {
			return nil, ErrHash
		}
		return p.Data, nil
	}
	newest := keptPart{Part: p}
	repeated := slices.IndexFunc(a.kept, func(k keptPart) bool {
		return k.Index == p.Index && k.Count == p.Count && k.MessageID == p.MessageID && bytes.Equal(k.Data, p.Data)
	})
	switch most := cmp.Or(a.Most, maxKept); {
	case repeated >= 0:
		newest = a.kept[repeated]
		a.kept = slices.Delete(a.kept, repeated, repeated+1)
	case len(a.kept) == most:
		a.kept = slices.Delete(a.kept, 0, 1)
		fallthrough
	default:
		newest.Data = bytes.Clone(p.Data)
	}
	a.count++
	newest.number = a.count
	a.kept = append(a.kept, newest)
	return a.complete(now, &a.kept[len(a.kept)-1]), nil
}

// Reset drops all parts.
func (a *Assembler) Reset() { a.kept = nil }

// Kept returns the number of parts of incomplete messages.
func (a *Assembler) Kept() int { return len(a.kept) }

// Size returns the number of bytes in the parts of incomplete messages.
func (a *Assembler) Size() (n int) {
	for _, k := range a.kept {
		n += len(k.Data)
	}
	return n
}

// complete tries combinations of kept parts that contain newest, older parts first. The search for a
// repeated part goes on where its last one ended. It returns the first message with the right hash and
// drops all parts of that message_id.
func (a *Assembler) complete(now time.Time, newest *keptPart) []byte {
	c := combination{Assembler: a, now: now, newest: newest}
	c.try(0)
	if c.message == nil {
		return nil
	}
	id := newest.MessageID
	a.kept = slices.DeleteFunc(a.kept, func(k keptPart) bool { return k.MessageID == id })
	return c.message
}

// combination is a choice of one kept part for each index.
type combination struct {
	*Assembler
	now     time.Time
	newest  *keptPart
	parts   [wire.MaxParts]wire.Part
	joined  bool
	message []byte
}

// try chooses a part for each index from index on, and reports whether the search is over.
func (c *combination) try(index uint8) (done bool) {
	if index == c.newest.Count {
		return c.join(c.parts[:index])
	}
	if index == c.newest.Index {
		c.parts[index] = c.newest.Part
		return c.try(index + 1)
	}
	first := index == 0 || index == 1 && c.newest.Index == 0
	for _, k := range c.kept {
		if k.Index != index || k.Count != c.newest.Count || k.MessageID != c.newest.MessageID || first && k.number <= c.newest.tried {
			continue
		}
		c.parts[index] = k.Part
		if c.try(index + 1) {
			return true
		}
		if first {
			c.newest.tried = k.number
		}
	}
	return false
}

// join sets message if the parts fit and their hash is right. It reports whether the search is
// over: a message was found, or the budget is used up.
func (c *combination) join(parts []wire.Part) (done bool) {
	size, total := len(parts[0].Data), 0
	for i, p := range parts {
		last := i == len(parts)-1
		if len(p.Data) == 0 || len(p.Data) > size || !last && len(p.Data) != size {
			return false
		}
		total += len(p.Data)
	}
	if total > c.Limit {
		return false
	}
	if c.joined && !c.mayJoin(c.now) {
		return true
	}
	c.joined = true
	message := make([]byte, 0, total)
	for _, p := range parts {
		message = append(message, p.Data...)
	}
	if ID(message) != c.newest.MessageID {
		if c.Joins != nil {
			c.Joins.Failed++
		}
		return false
	}
	c.message = message
	return true
}

// mayJoin takes a join from the budgets.
func (a *Assembler) mayJoin(now time.Time) bool {
	a.own.PerSecond = MaxJoins
	return a.own.take(now) && (a.Joins == nil || a.Joins.take(now))
}
