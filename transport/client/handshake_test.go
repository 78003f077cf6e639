package client

import (
	"bytes"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
)

// Shows R4.30.
func TestKeyCache(t *testing.T) {
	var c KeyCache
	now := time.Unix(1_800_000_000, 0)
	gateway := identity.FromSeed(&[32]byte{1}).Public()
	key := []byte("a public key")
	pin, other := kdf.Hash(key), kdf.Hash([]byte("another"))
	if c.find(now, gateway, kem.MLKEM768, nil) != nil {
		t.Error("a key out of nothing")
	}
	c.keep(now, gateway, kem.MLKEM768, key)
	for name, row := range map[string]struct {
		at      time.Duration
		gateway identity.PublicKey
		id      kem.ID
		pin     *[32]byte
		want    bool
	}{
		"at once":             {0, gateway, kem.MLKEM768, nil, true},
		"just before a day":   {24*time.Hour - 1, gateway, kem.MLKEM768, nil, true},
		"with its own pin":    {0, gateway, kem.MLKEM768, &pin, true},
		"with another pin":    {0, gateway, kem.MLKEM768, &other, false},
		"for another KEM":     {0, gateway, kem.XWing, nil, false},
		"for another gateway": {0, identity.FromSeed(&[32]byte{2}).Public(), kem.MLKEM768, nil, false},
	} {
		if got := c.find(now.Add(row.at), row.gateway, row.id, row.pin); bytes.Equal(got, key) != row.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	for name, at := range map[string]time.Duration{"after a day": 24 * time.Hour, "before it came": -time.Second} {
		c.keep(now, gateway, kem.MLKEM768, key)
		if c.find(now.Add(at), gateway, kem.MLKEM768, nil) != nil || len(c.keys) != 0 {
			t.Errorf("%s: the key is still there", name)
		}
	}
}

func TestKeyCacheIsBounded(t *testing.T) {
	var c KeyCache
	now := time.Unix(1_800_000_000, 0)
	gateway := func(n int) (g identity.PublicKey) {
		g[0], g[1] = byte(n), byte(n>>8)
		return g
	}
	for n := range maxKeys + 10 {
		c.keep(now.Add(time.Duration(n)*time.Second), gateway(n), kem.MLKEM768, []byte{1})
	}
	now = now.Add(time.Hour)
	if len(c.keys) != maxKeys || c.find(now, gateway(9), kem.MLKEM768, nil) != nil || c.find(now, gateway(10), kem.MLKEM768, nil) == nil {
		t.Errorf("%d keys; the oldest did not go", len(c.keys))
	}
}
