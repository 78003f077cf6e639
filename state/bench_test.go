package state

import (
	"bytes"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"lewes/crypto/kem"
	"lewes/crypto/noise"
	"lewes/crypto/seal"
	"lewes/state/wire"
)

// BenchmarkHandshake measures the gateway's whole side of a handshake with KKT,
// from the hello to the final Ack, and reports it as a ratio to its public-key
// operations, measured in the same run: one Ed25519 signature and verification,
// one decapsulation, one X25519 key and four shared secrets, one conversion of an
// Ed25519 point.
func BenchmarkHandshake(b *testing.B) {
	for _, id := range []kem.ID{kem.MLKEM768, kem.XWing} {
		b.Run(id.String(), func(b *testing.B) {
			config := gatewayConfig(b, 1)
			config.Rate, config.Burst = 1e9, 1<<30
			config.Session.Rand = rand.Reader
			g := newGatewayEnd(b, config)
			var gateway, publicKey time.Duration
			for i := range b.N {
				gateway += gatewaySide(b, g, id, uint64(i))
				publicKey += publicKeyOperations(b, config, id)
			}
			n := time.Duration(b.N)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(gateway/n), "ns/handshake")
			b.ReportMetric(float64(publicKey/n), "ns/public-key")
			b.ReportMetric(float64(gateway)/float64(publicKey), "ratio")
		})
	}
}

// gatewaySide makes one session and returns the time that the gateway spent.
func gatewaySide(b *testing.B, g *gatewayEnd, id kem.ID, seed uint64) (spent time.Duration) {
	now := epoch.Add(time.Duration(seed) * 20 * time.Millisecond)
	config := clientConfig(seed)
	config.KEM, config.Rand = id, rand.Reader
	c := newClientEnd(b, now, config)
	for c.session == nil || !c.session.Confirmed() {
		packets := c.take()
		if len(packets) == 0 {
			b.Fatalf("the handshake stands still: client %v, gateway %v", c.drops, g.drops)
		}
		start := time.Now()
		g.tick(now)
		for _, p := range packets {
			g.handle(now, p.Data, clientAt)
		}
		spent += time.Since(start)
		for _, p := range g.take() {
			c.handle(now, p.Data, gatewayAt)
		}
	}
	return spent
}

func publicKeyOperations(b *testing.B, config *GatewayConfig, id kem.ID) time.Duration {
	pair := config.KEMs.Find(id, 0)
	ct, _, err := kem.Encapsulate(id, pair.Public(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	client := testIdentity(2)
	message := make([]byte, 1300)
	signature := client.Sign(message)
	private, _ := config.Identity.X25519()
	public := client.Public()

	start := time.Now()
	config.Identity.Sign(message)
	if !public.Verify(message, signature) {
		b.Fatal("signature does not verify")
	}
	if _, err := pair.Decapsulate(ct); err != nil {
		b.Fatal(err)
	}
	if _, err := noise.GenerateKeyPair(rand.Reader); err != nil {
		b.Fatal(err)
	}
	point, err := public.X25519()
	if err != nil {
		b.Fatal(err)
	}
	for range 4 {
		if _, err := noise.DH(&private, &point); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start)
}

// BenchmarkSubsession measures new keys for a session, both ends.
func BenchmarkSubsession(b *testing.B) {
	c, g := established(b)
	now := epoch
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Minute)
		c.session.Rekey(now, &c.out)
		converse(now, c, g)
		g.tick(now)
		c.tick(now)
	}
	if got := int(c.session.Current().Number()); got != b.N {
		b.Fatalf("generation %d after %d subsessions: %v %v", got, b.N, c.drops, g.drops)
	}
}

// BenchmarkOpen opens datagrams of a session: header, replay window, AEAD, type.
func BenchmarkOpen(b *testing.B) {
	for _, suite := range []seal.Suite{seal.ChaCha20Poly1305, seal.AES256GCM} {
		b.Run(suite.String(), func(b *testing.B) {
			config := gatewayConfig(b, 1)
			config.Suites = suite
			g := newGatewayEnd(b, config)
			c := newClientEnd(b, epoch, clientConfig(2))
			converse(epoch, c, g)
			generation := g.only().Current()
			m := wire.EncryptedData{FlowID: 1, Payload: make([]byte, 1200)}
			packet := unsealed(generation.Index(), wire.LevelTransport, wire.TypeEncryptedData, &m)
			sealed := bytes.Clone(packet)
			b.SetBytes(1200)
			b.ReportAllocs()
			for b.Loop() {
				copy(sealed, packet)
				if err := c.session.Sender().Seal(sealed); err != nil {
					b.Fatal(err)
				}
				if _, _, err := generation.Open(epoch, sealed, clientAt, &g.out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSessionLookup finds a session by receiver index among few and among
// many, in an order that no cache foresees.
func BenchmarkSessionLookup(b *testing.B) {
	c, g := established(b)
	generation := g.sessions.Find(c.session.Current().Index())
	for _, size := range []uint32{1_000, 1_000_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			table := NewSessions()
			order := make([]uint32, size)
			for i := range order {
				order[i] = mathrand.Uint32() | 1
				table.Apply(Event{Kind: IndexAdded, Index: order[i], KeySet: generation})
			}
			mathrand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			next := 0
			for b.Loop() {
				if table.Find(order[next]) != generation {
					b.Fatal("not found")
				}
				if next++; next == len(order) {
					next = 0
				}
			}
		})
	}
}
