package state

import (
	"time"

	"lewes/state/path"
	"lewes/state/wire"
)

// maxSiblings bounds the records that one index may have, of different sources and
// salts, until a Handshake 3 opens for one of them. An onlooker who copies packets
// from elsewhere, faster than they arrive, thus keeps nobody from a session: his
// copies lead to a Handshake 2 for his address, and no further.
const maxSiblings = 16

// route gives a KKTRequest or a part of Handshake 1 to the records of its index and
// source. There is more than one only where somebody forges hellos.
func (h *ResponderTable) route(now time.Time, header wire.Header, t wire.Type, packet, content []byte, from path.Path, out *Output) error {
	index := header.ReceiverIdx
	if h.records[index] == nil {
		return ErrStale
	}
	err := error(ErrWrongSource)
	for r := h.records[index]; r != nil; r = r.sibling {
		if !r.from(from) {
			continue
		}
		if t == wire.TypeKKTRequest {
			err = r.handleKKT(content, len(packet), from, out)
		} else {
			err = h.routeFirst(now, r, content, len(packet), from, out)
		}
		if err == nil && t == wire.TypeKKTRequest {
			break
		}
	}
	return err
}

// routeFirst gives a part of Handshake 1 to a record.
func (h *ResponderTable) routeFirst(now time.Time, r *record, content []byte, size int, from path.Path, out *Output) error {
	if r.first == nil && r.sibling == nil && h.records[r.index] == r {
		r.in += size
	}
	before := r.first
	err := r.handleFirst(now, content, from, out)
	h.countFirst(before != r.first, err)
	return err
}

// settle forgets the siblings of a record that has won their index.
func (h *ResponderTable) settle(winner *record) {
	for r := h.records[winner.index]; r != nil; {
		next := r.sibling
		if r != winner {
			h.remove(r)
		}
		r = next
	}
}

// crowd returns how many records share an index.
func (h *ResponderTable) crowd(index uint32) (n int) {
	for r := h.records[index]; r != nil; r = r.sibling {
		n++
	}
	return n
}

// find returns the record of a hello, or nil.
func (h *ResponderTable) find(hello *wire.ClientHello, from path.Path) *record {
	for r := h.records[hello.ReceiverIdx]; r != nil; r = r.sibling {
		if r.salt == hello.Salt && r.from(from) {
			return r
		}
	}
	return nil
}

// taken reports whether a new hello may not have its index: a session has it, or
// too many records want it.
func (h *ResponderTable) taken(index uint32) bool {
	r := h.records[index]
	return r != nil && (r.session != nil || h.crowd(index) == maxSiblings) || h.config.IndexInUse != nil && h.config.IndexInUse(index)
}
