// Package parts splits messages that are too long for one datagram, and
// reassembles them (section 1 of PROTOCOL.md).
//
// Split returns the parts of a message. An Assembler takes parts in any order,
// duplicated and mixed with forged ones, and returns each message whose hash
// matches the message_id of its parts, in bounded memory.
package parts

import (
	"bytes"
	"errors"
	"fmt"

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

const maxKept = 2 * wire.MaxParts // parts of an Assembler

var (
	// ErrTooLong means that a message would exceed the limit of its type.
	ErrTooLong = errors.New("parts: message is too long")
	// ErrHash means that a message does not match its message_id.
	ErrHash = errors.New("parts: message does not match its id")
)

// Assembler reassembles messages of one type. Its zero value with a Limit is ready to use. It keeps
// at most eight parts and evicts the oldest. A message is complete as soon as one combination of
// kept parts matches their message_id, so forged parts beside the authentic ones do no harm.
type Assembler struct {
	Limit int // the longest accepted message, in bytes

	kept []wire.Part // oldest first; Data is owned
}

// Add adds a part. It returns the message that this part completes, or nil if
// parts are missing. The message of a single part aliases p.Data; otherwise the
// caller owns it. An error means that the part was ignored.
func (a *Assembler) Add(p wire.Part) (message []byte, err error) {
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
	for _, k := range a.kept {
		if k.Index == p.Index && k.Count == p.Count && k.MessageID == p.MessageID && bytes.Equal(k.Data, p.Data) {
			return nil, nil
		}
	}
	if len(a.kept) == maxKept {
		copy(a.kept, a.kept[1:])
		a.kept = a.kept[:maxKept-1]
	}
	p.Data = bytes.Clone(p.Data)
	a.kept = append(a.kept, p)
	return a.complete(p), nil
}

// Reset drops all parts.
func (a *Assembler) Reset() { a.kept = nil }

// Kept returns the number of parts of incomplete messages.
func (a *Assembler) Kept() int { return len(a.kept) }

// complete tries every combination of kept parts that contains newest. It returns
// the first message with the right hash and drops all parts of that message_id.
func (a *Assembler) complete(newest wire.Part) []byte {
	var choice [wire.MaxParts]wire.Part
	message := a.try(newest, &choice, 0)
	if message != nil {
		rest := a.kept[:0]
		for _, k := range a.kept {
			if k.MessageID != newest.MessageID {
				rest = append(rest, k)
			}
		}
		clear(a.kept[len(rest):])
		a.kept = rest
	}
	return message
}

func (a *Assembler) try(newest wire.Part, choice *[wire.MaxParts]wire.Part, index uint8) []byte {
	if index == newest.Count {
		return a.join(choice[:index])
	}
	if index == newest.Index {
		choice[index] = newest
		return a.try(newest, choice, index+1)
	}
	for _, k := range a.kept {
		if k.Index != index || k.Count != newest.Count || k.MessageID != newest.MessageID {
			continue
		}
		choice[index] = k
		if message := a.try(newest, choice, index+1); message != nil {
			return message
		}
	}
	return nil
}

// join returns the message of the parts, or nil if their lengths or its hash are wrong.
func (a *Assembler) join(parts []wire.Part) []byte {
	size, total := len(parts[0].Data), 0
	for i, p := range parts {
		last := i == len(parts)-1
		if len(p.Data) == 0 || len(p.Data) > size || !last && len(p.Data) != size {
			return nil
		}
		total += len(p.Data)
	}
	if total > a.Limit {
		return nil
	}
	message := make([]byte, 0, total)
	for _, p := range parts {
		message = append(message, p.Data...)
	}
	if ID(message) != parts[0].MessageID {
		return nil
	}
	return message
}
