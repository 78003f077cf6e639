package access

import (
	"bytes"
	"fmt"
	"testing"

	"lewes/crypto/identity"
)

// manyLines returns a file with n clients.
func manyLines(n int) []byte {
	var text bytes.Buffer
	var seed [32]byte
	for i := range n {
		seed[0], seed[1], seed[2] = byte(i), byte(i>>8), byte(i>>16)
		fmt.Fprintf(&text, "%v  client-%d  # added by a script\n", identity.FromSeed(&seed).Public(), i)
	}
	return text.Bytes()
}

func BenchmarkParse(b *testing.B) {
	const clients = 10_000
	text := manyLines(clients)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse("clients", text, MaxEntries); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/clients, "ns/client")
}

func BenchmarkContains(b *testing.B) {
	l, err := parse("clients", manyLines(10_000), MaxEntries)
	if err != nil {
		b.Fatal(err)
	}
	known, other := l.Entries()[5_000].Identity, identity.PublicKey{1}
	b.ReportAllocs()
	for b.Loop() {
		if !l.Contains(known) || l.Contains(other) {
			b.Fatal("wrong answer")
		}
	}
}
