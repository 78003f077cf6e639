// Package operations measures the public-key operations that a handshake and a
// subsession are made of, one by one, in CPU time. Their sum is the least that a
// gateway can get along with; what it takes beyond that is its own.
package operations

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"lewes/bench/measure"
	"lewes/bench/worker"
	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/noise"
)

// Costs is the CPU time of each operation.
type Costs struct {
	Sign        time.Duration `json:"sign"`        // Ed25519
	Verify      time.Duration `json:"verify"`      // Ed25519
	Convert     time.Duration `json:"convert"`     // an Ed25519 public key to X25519
	Generate    time.Duration `json:"generate"`    // an X25519 key pair
	Agree       time.Duration `json:"agree"`       // X25519
	Decapsulate time.Duration `json:"decapsulate"` // ML-KEM-768
	Encapsulate time.Duration `json:"encapsulate"` // ML-KEM-768
}

// Handshake is what a gateway's handshake takes: with the exchange of the KEM key, which the
// gateway signs, or where the client knows it.
func (c *Costs) Handshake(known bool) time.Duration {
	sum := c.Verify + c.Decapsulate + c.Generate + 4*c.Agree + c.Convert
	if known {
		return sum
	}
	return sum + c.Sign
}

// Subsession is what a gateway's subsession takes.
func (c *Costs) Subsession() time.Duration { return c.Encapsulate + c.Generate + 4*c.Agree }

// Role measures as a worker. The call is "measure", for about a time in all.
var Role = worker.Start(func(context.Context, worker.None) (*worker.Service, error) {
	return &worker.Service{
		Result: worker.None{},
		Calls: map[string]worker.Handler{
			"measure": worker.Method(func(_ context.Context, d time.Duration) (*Costs, error) { return Measure(d) }),
		},
	}, nil
})

// Measure repeats each operation for a share of d.
func Measure(d time.Duration) (*Costs, error) {
	signer, err := identity.Generate(rand.Reader)
	if err != nil {
		return nil, err
	}
	pair, err := kem.Generate(kem.MLKEM768, rand.Reader)
	if err != nil {
		return nil, err
	}
	ct, _, err := kem.Encapsulate(kem.MLKEM768, pair.Public(), rand.Reader)
	if err != nil {
		return nil, err
	}
	mine, err := noise.GenerateKeyPair(rand.Reader)
	if err != nil {
		return nil, err
	}
	theirs, err := noise.GenerateKeyPair(rand.Reader)
	if err != nil {
		return nil, err
	}
	message := make([]byte, 1200)
	public, signature := signer.Public(), signer.Sign(message)
	c := new(Costs)
	for _, o := range []struct {
		name string
		cost *time.Duration
		do   func() error
	}{
		{"sign", &c.Sign, func() error { signature = signer.Sign(message); return nil }},
		{"verify", &c.Verify, func() error {
			if !public.Verify(message, signature) {
				return fmt.Errorf("a signature does not verify")
			}
			return nil
		}},
		{"convert", &c.Convert, func() error { _, err := public.X25519(); return err }},
		{"generate", &c.Generate, func() error { _, err := noise.GenerateKeyPair(rand.Reader); return err }},
		{"agree", &c.Agree, func() error { _, err := noise.DH(&mine.Private, &theirs.Public); return err }},
		{"decapsulate", &c.Decapsulate, func() error { _, err := pair.Decapsulate(ct); return err }},
		{"encapsulate", &c.Encapsulate, func() error {
			_, _, err := kem.Encapsulate(kem.MLKEM768, pair.Public(), rand.Reader)
			return err
		}},
	} {
		if *o.cost, err = repeat(d/7, o.do); err != nil {
			return nil, fmt.Errorf("operations: %s: %w", o.name, err)
		}
	}
	return c, nil
}

// repeat does something over and over for a while and returns the CPU time of once.
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
	return measure.Self().Since(before).CPU() / time.Duration(n), nil
}
