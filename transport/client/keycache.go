package client

import (
	"sync"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
)

const (
	// keyLife is how long a gateway's KEM key may be used after the KKT that
	// brought it (section 4 of PROTOCOL.md).
	keyLife = 24 * time.Hour
	// maxKeys bounds a KeyCache.
	maxKeys = 1024
)

// KeyCache keeps gateways' KEM public keys, in memory, for 24 hours after they
// came signed: a handshake with a gateway whose key is here takes one flight
// less. The zero value is ready; it is safe for concurrent use.
type KeyCache struct {
	mu   sync.Mutex
	keys map[keyName]kemKey
}

// sharedKeys is the process's own cache.
var sharedKeys KeyCache

type keyName struct {
	gateway identity.PublicKey
	kem     kem.ID
}

type kemKey struct {
	public []byte // never changed
	at     time.Time
}

// find returns the gateway's key if it is fresh and, where pin is not nil, the one
// that pin is the hash of; else nil.
func (c *KeyCache) find(now time.Time, gateway identity.PublicKey, id kem.ID, pin *[32]byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := keyName{gateway, id}
	key, ok := c.keys[name]
	if !ok {
		return nil
	}
	// A clock that was set back makes a key no younger.
	if age := now.Sub(key.at); age >= keyLife || age < 0 {
		delete(c.keys, name)
		return nil
	}
	if pin != nil && kdf.Hash(key.public) != *pin {
		return nil
	}
	return key.public
}

// keep stores a key that a KKT brought at now. The cache keeps public.
func (c *KeyCache) keep(now time.Time, gateway identity.PublicKey, id kem.ID, public []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := keyName{gateway, id}
	if c.keys == nil {
		c.keys = make(map[keyName]kemKey)
	}
	if _, known := c.keys[name]; !known && len(c.keys) >= maxKeys {
		c.dropOldest()
	}
	// Wall time: a key ages while the machine sleeps, too.
	c.keys[name] = kemKey{public, now.Round(0)}
}

func (c *KeyCache) dropOldest() {
	var oldest keyName
	var at time.Time
	for name, key := range c.keys {
		if at.IsZero() || key.at.Before(at) {
			oldest, at = name, key.at
		}
	}
	delete(c.keys, oldest)
}
