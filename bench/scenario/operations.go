//go:build linux

package scenario

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"lewes/bench/measure"
	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/noise"
)

// operations is the CPU time of each public-key operation that a gateway performs in a handshake
// or subsession: Ed25519, the conversion of a public key to X25519, X25519, and ML-KEM-768.
type operations struct{ Sign, Verify, Convert, Generate, Agree, Decapsulate, Encapsulate time.Duration }

// handshake returns the sum of a gateway's handshake. If the client does not know the KEM key, the
// gateway signs it.
func (c *operations) handshake(known bool) time.Duration {
	sum := c.Verify + c.Decapsulate + c.Generate + 4*c.Agree + c.Convert
	if known {
		return sum
	}
	return sum + c.Sign
}

// subsession returns the sum of a gateway's subsession.
func (c *operations) subsession() time.Duration { return c.Encapsulate + c.Generate + 4*c.Agree }

// measureOperations repeats the operations, for d in all.
func measureOperations(d time.Duration) (*operations, error) {
	signer, err1 := identity.Generate(rand.Reader)
	pair, err2 := kem.Generate(kem.MLKEM768, rand.Reader)
	local, err3 := noise.GenerateKeyPair(rand.Reader)
	remote, err4 := noise.GenerateKeyPair(rand.Reader)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	ct, _, err := kem.Encapsulate(kem.MLKEM768, pair.Public(), rand.Reader)
	if err != nil {
		return nil, err
	}
	message := make([]byte, 1200)
	public, signature := signer.Public(), signer.Sign(message)
	c := new(operations)
	for _, o := range []struct {
		name string
		cost *time.Duration
		do   func() error
	}{
		{"sign", &c.Sign, func() error { signature = signer.Sign(message); return nil }},
		{"verify", &c.Verify, func() error {
			if !public.Verify(message, signature) {
				return errors.New("invalid signature")
			}
			return nil
		}},
		{"convert", &c.Convert, func() error { _, err := public.X25519(); return err }},
		{"generate", &c.Generate, func() error { _, err := noise.GenerateKeyPair(rand.Reader); return err }},
		{"agree", &c.Agree, func() error { _, err := noise.DH(&local.Private, &remote.Public); return err }},
		{"decapsulate", &c.Decapsulate, func() error { _, err := pair.Decapsulate(ct); return err }},
		{"encapsulate", &c.Encapsulate, func() error {
			_, _, err := kem.Encapsulate(kem.MLKEM768, pair.Public(), rand.Reader)
			return err
		}},
	} {
		if *o.cost, err = repeat(d/7, o.do); err != nil {
			return nil, fmt.Errorf("scenario: %s: %w", o.name, err)
		}
	}
	return c, nil
}

// repeat calls do for d and returns the CPU time of one call.
func repeat(d time.Duration, do func() error) (time.Duration, error) {
	if err := do(); err != nil {
		return 0, err
	}
	before, n := measure.Self(), 0
	for end := time.Now().Add(d); n == 0 || time.Now().Before(end); n++ {
		if err := do(); err != nil {
			return 0, err
		}
	}
	return measure.Self().Since(before).CPU / time.Duration(n), nil
}
