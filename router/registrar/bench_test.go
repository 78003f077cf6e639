package registrar

import (
	"crypto/rand"
	"encoding/binary"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
	"lewes/state/ledger"
	"lewes/state/wire"
)

// minted are tickets of one issuer for a gateway.
type minted struct {
	verifier *tickets.Verifier
	tickets  [][]byte
}

func mint(b *testing.B, gateway identity.PublicKey, n int) *minted {
	b.Helper()
	const issuer = "issuer.example"
	key, err := tickets.GenerateKey()
	if err != nil {
		b.Fatal(err)
	}
	m := &minted{verifier: tickets.NewVerifier(gateway)}
	err = m.verifier.SetIssuers([]*tickets.Directory{{Issuer: issuer, Epoch: tickets.DefaultEpoch, Keys: []tickets.Key{{
		Denomination: tickets.Denomination{Bytes: 1 << 30, Seconds: 86400}, Epoch: tickets.EpochAt(time.Now(), tickets.DefaultEpoch), Public: key.Public(),
	}}}})
	if err != nil {
		b.Fatal(err)
	}
	challenge := tickets.Challenge(issuer, gateway)
	for range n {
		var seed [tickets.SeedSize]byte
		_, _ = rand.Read(seed[:])
		request, err := tickets.Blind(&seed, key.Public(), challenge)
		if err != nil {
			b.Fatal(err)
		}
		response, err := key.Sign(request)
		if err != nil {
			b.Fatal(err)
		}
		token, err := tickets.Finalize(&seed, key.Public(), challenge, response)
		if err != nil {
			b.Fatal(err)
		}
		m.tickets = append(m.tickets, token.Append(nil))
	}
	return m
}

// BenchmarkSpend registers clients with a ticket each, 128 at a time, in a ledger on the disk of the test's folder
// (TMPDIR). Its floors are BenchmarkVerify, on half of the processors, and BenchmarkSync of package ledger.
func BenchmarkSpend(b *testing.B) {
	gateway := identity.FromSeed(&[32]byte{1}).Public()
	m := mint(b, gateway, b.N)
	l, err := ledger.Open(filepath.Join(b.TempDir(), "ledger"), ledger.Options{Gateway: gateway, Now: time.Now()})
	if err != nil {
		b.Fatal(err)
	}
	r := New(Config{Access: Tickets, Modes: []wire.Mode{wire.ModeRelay}, Tickets: BlindRSA(m.verifier), Sealing: new([32]byte)})
	r.SetLedger(l)
	var next atomic.Int64
	b.SetParallelism(128)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := next.Add(1)
			message := (&wire.Register{
				RequestID: 1, Mode: wire.ModeRelay, Timestamp: uint64(time.Now().Unix()), TicketType: wire.TicketBlindRSA2048, Credential: m.tickets[n-1],
			}).Append(nil)
			var client identity.PublicKey
			binary.BigEndian.PutUint64(client[:], uint64(n))
			done := make(chan wire.RegisterCode, 1)
			for !r.Submit(&Request{Client: client, Message: message}, func(result *wire.RegisterResult, _ Registration) { done <- result.Code }) {
				time.Sleep(time.Millisecond)
			}
			if code := <-done; code != wire.CodeOK {
				b.Error(code)
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "spends/s")
	r.Close()
	if err := l.Close(); err != nil {
		b.Error(err)
	}
}

// BenchmarkVerify verifies a ticket's signature.
func BenchmarkVerify(b *testing.B) {
	gateway := identity.FromSeed(&[32]byte{1}).Public()
	m := mint(b, gateway, 1)
	t, err := m.verifier.Check(m.tickets[0], time.Now())
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		if err := t.Verify(); err != nil {
			b.Fatal(err)
		}
	}
}
