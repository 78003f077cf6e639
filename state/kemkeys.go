package state

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"lewes/crypto/kem"
	"lewes/state/snapshot"
)

// Lifetime of a gateway's KEM key, and the time for which it is accepted beyond (section 3).
const (
	kemRenewal  = 24 * time.Hour
	kemAccepted = time.Hour
)

// KEMKeys are a gateway's KEM key pairs: random, never on disk, renewed daily. One owner
// calls Tick; any goroutine may read.
type KEMKeys struct {
	ids  []kem.ID
	rand io.Reader
	set  atomic.Pointer[kemSet]
}

// kemSet is immutable once stored.
type kemSet struct {
	now, before map[kem.ID]*kem.KeyPair
	renew       time.Time
	forget      time.Time // when before is wiped; zero: never
}

// NewKEMKeys generates a key pair for each KEM.
func NewKEMKeys(now time.Time, ids []kem.ID, rand io.Reader) (*KEMKeys, error) {
	k := &KEMKeys{ids: ids, rand: rand}
	fresh, err := k.generate()
	if err != nil {
		return nil, err
	}
	k.set.Store(&kemSet{now: fresh, renew: now.Add(kemRenewal)})
	return k, nil
}

func (k *KEMKeys) generate() (map[kem.ID]*kem.KeyPair, error) {
	pairs := make(map[kem.ID]*kem.KeyPair, len(k.ids))
	for _, id := range k.ids {
		pair, err := kem.Generate(id, k.rand)
		if err != nil {
			return nil, fmt.Errorf("generating a %s key pair: %w", id, err)
		}
		pairs[id] = pair
	}
	return pairs, nil
}

// Tick renews the keys after 24 h and wipes the previous ones an hour later. It returns
// when the next call is due.
func (k *KEMKeys) Tick(now time.Time) (next time.Time, err error) {
	s := k.set.Load()
	if !s.forget.IsZero() && !now.Before(s.forget) {
		k.set.Store(&kemSet{now: s.now, renew: s.renew})
		for _, pair := range s.before {
			pair.Wipe()
		}
		s = k.set.Load()
	}
	if !now.Before(s.renew) {
		fresh, err := k.generate()
		if err != nil {
			return now.Add(time.Minute), err
		}
		s = &kemSet{now: fresh, before: s.now, renew: now.Add(kemRenewal), forget: now.Add(kemAccepted)}
		k.set.Store(s)
	}
	if !s.forget.IsZero() && s.forget.Before(s.renew) {
		return s.forget, nil
	}
	return s.renew, nil
}

// Offered reports whether the gateway has keys for a KEM.
func (k *KEMKeys) Offered(id kem.ID) bool { return k.set.Load().now[id] != nil }

// Find returns the key pair for a hello's key id: the current one for 0, else the one with
// that id, or nil if it is stale.
func (k *KEMKeys) Find(id kem.ID, keyID uint32) *kem.KeyPair {
	s := k.set.Load()
	current := s.now[id]
	if keyID == 0 || current != nil && current.KeyID() == keyID {
		return current
	}
	if last := s.before[id]; last != nil && last.KeyID() == keyID {
		return last
	}
	return nil
}

// Bounds of an encoded KEMKeys.
const (
	maxKEMs     = 16
	maxKEMSeed  = 256
	minPairSize = 8
)

// Write encodes the current and previous key pairs: clients cache the public keys for a
// day (section 3).
func (k *KEMKeys) Write(w *snapshot.Writer) error {
	return k.set.Load().snapshot(snapshot.Encode(w))
}

// Read replaces the key pairs of an unused k by encoded ones. It keeps its own pairs of KEMs that
// are missing, and drops pairs of other KEMs. After an error nothing has changed.
func (k *KEMKeys) Read(r *snapshot.Reader) error {
	s := new(kemSet)
	if err := s.snapshot(snapshot.Decode(r)); err != nil {
		return err
	}
	theirs := s.now
	s.now = maps.Clone(k.set.Load().now)
	for id := range s.now {
		if pair := theirs[id]; pair != nil {
			s.now[id].Wipe()
			s.now[id] = pair
		}
	}
	k.set.Store(s)
	return nil
}

func (s *kemSet) snapshot(c *snapshot.Codec) error {
	c.Time(&s.renew)
	c.Time(&s.forget)
	for _, pairs := range []*map[kem.ID]*kem.KeyPair{&s.now, &s.before} {
		if err := snapshotPairs(c, pairs); err != nil {
			return err
		}
	}
	c.Check(!s.renew.IsZero() && (len(s.before) == 0 || !s.forget.IsZero()), "KEM keys that are never renewed")
	return c.Err()
}

func snapshotPairs(c *snapshot.Codec, pairs *map[kem.ID]*kem.KeyPair) error {
	ids := slices.Collect(maps.Keys(*pairs))
	if c.Decoding() {
		*pairs = make(map[kem.ID]*kem.KeyPair)
	}
	for i := range c.Count(len(ids), maxKEMs, minPairSize) {
		var id uint32
		var seed []byte
		var err error
		if !c.Decoding() {
			id = uint32(ids[i])
			if seed, err = (*pairs)[ids[i]].AppendSeed(nil); err != nil {
				return err
			}
		}
		c.Uint32(&id)
		c.Blob(&seed, maxKEMSeed)
		if c.Decoding() && c.Err() == nil {
			pair, err := kem.FromSeed(kem.ID(id), seed)
			c.Check(err == nil, "KEM key: %v", err)
			(*pairs)[kem.ID(id)] = pair
		}
		clear(seed)
	}
	return nil
}
