package state

import (
	"bytes"
	"container/list"
	"maps"
	"slices"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// Bounds of what is read.
const (
	maxKEMs    = 16
	maxSeed    = 256
	maxAck     = 256
	leastWrite = 8 // bytes of anything that is counted

	// maxRecordsForm bounds the records that are written, in bytes; leastRecord is what
	// one takes beside what differs in length.
	maxRecordsForm = 8 << 20
	leastRecord    = 200
)

// Write writes the key pairs, the last ones too: clients keep the public halves for
// a day (section 3).
func (k *KEMKeys) Write(w *snapshot.Writer) error {
	s := k.set.Load()
	w.Time(s.renew)
	w.Time(s.forget)
	for _, pairs := range []map[kem.ID]*kem.KeyPair{s.now, s.before} {
		w.Uint32(uint32(len(pairs)))
		for id, pair := range pairs {
			seed, err := pair.AppendSeed(nil)
			if err != nil {
				return err
			}
			w.Uint32(uint32(id))
			w.Blob(seed)
			clear(seed)
		}
	}
	return nil
}

// Read takes over the key pairs that Write wrote. Of KEMs that were not there it
// keeps its own; pairs of KEMs that it has none of are left out. After an error
// nothing has changed. Nobody may have used k before.
func (k *KEMKeys) Read(r *snapshot.Reader) error {
	s := &kemSet{renew: r.Time(), forget: r.Time()}
	theirs, before := readPairs(r), readPairs(r)
	if s.renew.IsZero() || len(before) > 0 && s.forget.IsZero() {
		r.Fail("KEM keys that are never renewed")
	}
	if r.Err() != nil {
		return r.Err()
	}
	s.now, s.before = maps.Clone(k.set.Load().now), before
	for id := range s.now {
		if pair := theirs[id]; pair != nil {
			s.now[id].Wipe()
			s.now[id] = pair
		}
	}
	k.set.Store(s)
	return nil
}

func readPairs(r *snapshot.Reader) map[kem.ID]*kem.KeyPair {
	pairs := make(map[kem.ID]*kem.KeyPair)
	for range r.Count(maxKEMs, leastWrite) {
		id, seed := kem.ID(r.Uint32()), r.Blob(maxSeed)
		if r.Err() != nil {
			break
		}
		pair, err := kem.FromSeed(id, seed)
		if err != nil {
			r.Fail("a KEM key: %v", err)
			break
		}
		pairs[id] = pair
	}
	return pairs
}

// Write writes what clients rely on: the secrets of cookies, and the records that
// wait for Handshake 1. A record whose Handshake 1 has opened stays behind, for its
// Noise state cannot be taken along, and to open Handshake 1 again would seal
// another Handshake 2 with the same nonce: a client that has got its Handshake 2
// learns by a Reset, within a round trip, to begin anew. So does one whose final Ack
// was lost, and finds its session there. Of the records that a flood leaves, only the
// newest go along: what clients still wait for is among these.
func (h *ResponderTable) Write(w *snapshot.Writer) {
	secrets := h.jar.Secrets()
	defer secrets.Wipe()
	w.Time(secrets.Start)
	for _, key := range []*[32]byte{secrets.Present, secrets.Last} {
		w.Bool(key != nil)
		if key != nil {
			w.Fixed(key[:])
		}
	}
	records := h.newest(maxRecordsForm)
	w.Uint32(uint32(len(records)))
	for _, r := range records {
		w.Part(func() { r.write(w) })
	}
}

// newest returns the records that go along, oldest first: those that came last, as
// far as they take no more than so many bytes, and of these that failed only what
// there is room for behind those that wait.
func (h *ResponderTable) newest(bytes int) (records []*record) {
	for _, queue := range []*list.List{h.waiting, h.failed} {
		for e := queue.Back(); e != nil; e = e.Prev() {
			r := e.Value.(*record)
			if bytes -= leastRecord + len(r.ack) + len(r.request) + len(r.response); bytes < 0 {
				break
			}
			records = append(records, r)
		}
	}
	slices.Reverse(records)
	return records
}

// Read takes over what Write wrote. Records whose KEM key is not there any more, and
// those beyond the bound, are left out.
func (h *ResponderTable) Read(r *snapshot.Reader) error {
	secrets := cookie.Secrets{Start: r.Time()}
	defer secrets.Wipe()
	for _, to := range []**[32]byte{&secrets.Present, &secrets.Last} {
		if r.Bool() {
			*to = new([32]byte)
			r.Fixed((*to)[:])
		}
	}
	if r.Err() == nil {
		h.jar.Restore(&secrets)
	}
	for range r.Count(1<<24, leastWrite) {
		one := r.Part()
		waiting, until := h.readRecord(one)
		if err := one.End(); err != nil {
			return err
		}
		if waiting.kem != nil && h.count < h.config.maxRecords() {
			h.store(waiting, until)
		}
	}
	return r.Err()
}

func (r *record) write(w *snapshot.Writer) {
	w.Uint32(r.index)
	w.Fixed(r.hello[:])
	w.Fixed(r.salt[:])
	w.Path(r.source)
	w.Time(r.created)
	w.Time(r.timer.at)
	w.Uint8(uint8(r.suite))
	w.Uint8(uint8(r.kem.ID()))
	w.Uint32(r.kem.KeyID())
	w.Uint32(r.keyID)
	w.Blob(r.ack)
	w.Uint32(uint32(r.in))
	w.Uint32(uint32(r.out))
	w.Blob(r.request)
	w.Blob(r.response)
}

func (h *ResponderTable) readRecord(from *snapshot.Reader) (r *record, until time.Time) {
	r = &record{store: h, index: from.Uint32(), assembler: parts.Assembler{Limit: parts.MaxHandshake}}
	from.Fixed(r.hello[:])
	from.Fixed(r.salt[:])
	r.source = from.Path()
	r.created = from.Time()
	until = from.Time()
	r.suite = seal.Suite(from.Uint8())
	if !r.suite.Valid() || r.index == 0 || until.IsZero() {
		from.Fail("a handshake of index %d under AEAD %d", r.index, r.suite)
	}
	r.kem = h.config.KEMs.Find(kem.ID(from.Uint8()), from.Uint32())
	r.keyID = from.Uint32()
	r.ack = bytes.Clone(from.Blob(maxAck))
	r.in, r.out = int(from.Uint32()), int(from.Uint32())
	r.request = bytes.Clone(from.Blob(wire.MaxTCPPacket))
	r.response = bytes.Clone(from.Blob(wire.MaxTCPPacket))
	return r, until
}
