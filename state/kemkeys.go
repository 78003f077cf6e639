package state

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"lewes/crypto/kem"
)

// How long a gateway's KEM key is offered, and how much longer it is accepted
// (section 3).
const (
	kemRenewal  = 24 * time.Hour
	kemAccepted = time.Hour
)

// KEMKeys are a gateway's KEM key pairs: random, never on disk, renewed. One
// owner calls Tick; any goroutine may read.
type KEMKeys struct {
	ids  []kem.ID
	rand io.Reader
	set  atomic.Pointer[kemSet]
}

// kemSet is never changed once it is stored.
type kemSet struct {
	now, before map[kem.ID]*kem.KeyPair
	renew       time.Time
	forget      time.Time // of before; zero: there is none
}

// NewKEMKeys makes a key pair for each KEM.
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
			return nil, fmt.Errorf("making a %s key pair: %w", id, err)
		}
		pairs[id] = pair
	}
	return pairs, nil
}

// Tick renews the keys after 24 h and wipes the last ones an hour later. It
// returns when it wants to be called next.
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

// Find returns the key pair that a hello asks for: the current one for key id 0,
// else the one with that id, or nil when it is stale.
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
