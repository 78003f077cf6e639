package parts

import (
	"bytes"
	"errors"

	"lewes/state/wire"
)

// Limits of the messages that are sent in parts (section 1).
const (
	MaxHandshake = 4 << 10
	MaxRegister  = 8 << 10
)

// maxKept is two assemblies of four parts.
const maxKept = 2 * wire.MaxParts

var (
	// ErrTooLong says that a message would be longer than its kind may be.
	ErrTooLong = errors.New("parts: message is too long")
	// ErrHash says that a message is not the one that its message_id names.
	ErrHash = errors.New("parts: message has another hash than its parts name")
)

// Assembler puts messages of one kind together. Its zero value with a Limit is
// ready to use. It keeps at most eight parts; when a ninth comes, the oldest
// goes. Whatever was kept before, a message is complete as soon as one
// combination of kept parts has the hash that they name: a forged part beside an
// honest one spoils nothing.
type Assembler struct {
	Limit int // the longest message taken, in bytes

	kept []wire.Part // in the order in which they came; Data is our own
}

// Add takes one part. It returns the message that this part completes, or nil
// when parts are still missing. For a message of one part the result aliases
// p.Data, otherwise it is the caller's. An error says that this part was of no
// use; what was kept stays.
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

// Reset forgets every part.
func (a *Assembler) Reset() { a.kept = nil }

// Kept returns the number of parts that wait for others.
func (a *Assembler) Kept() int { return len(a.kept) }

// complete tries every combination of kept parts that contains newest and
// returns the message of the first whose hash is right, after forgetting all
// parts of that message_id.
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

// join returns the message that the parts make, or nil where their lengths or
// its hash are wrong.
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
