package costs_test

import (
	"context"
	"crypto/rand"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/router"
	"lewes/router/costs"
	"lewes/router/policy"
	"lewes/transport"
	"lewes/transport/uri"
)

// TestEveryCostHasABound checks the table of costs: each kind was measured, none costs more than
// Cheap without a bound, and each bound is one of section 12.
func TestEveryCostHasABound(t *testing.T) {
	protocol, err := os.ReadFile("../../transport/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, bounds, _ := strings.Cut(string(protocol), "\n## 12. Bounds")
	bounds, _, _ = strings.Cut(bounds, "\n## 13")
	for i := range costs.Kinds {
		k := &costs.Kinds[i]
		switch cost := k.Cost(); {
		case cost <= 0:
			t.Errorf("%s was not measured", k)
		case cost > costs.Cheap && k.Bound == "":
			t.Errorf("%s costs %v and has no bound", k, cost)
		}
		if k.Bound != "" && !strings.Contains(bounds, "\n| "+k.Bound+" |") {
			t.Errorf("%s: section 12 has no bound %q", k, k.Bound)
		}
		if k.Counter != "" {
			if k.Counted(&router.Stats{}) == nil {
				t.Errorf("%s: there is no counter %s", k, k.Counter)
			}
		}
	}
	if costs.Find(costs.Baseline) == nil {
		t.Error("the table has no data packet")
	}
}

// socket is a shard's socket towards clients.
type socket struct {
	transport.Conn
	sent []transport.Packet
}

func (s *socket) WriteBatch(p []transport.Packet) (int, error) {
	s.sent = append(s.sent, p...)
	return len(p), nil
}

// TestKindsAreCounted sends packets of each kind to a shard, which counts every one under the kind's
// counter.
func TestKindsAreCounted(t *testing.T) {
	for i := range costs.Kinds {
		k := &costs.Kinds[i]
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			count(t, k)
		})
	}
}

func count(t *testing.T, k *costs.Kind) {
	const packets = 8
	key, exit := identity.FromSeed(&[32]byte{1}), identity.FromSeed(&[32]byte{2})
	now := time.Unix(1_800_000_000, 0)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	target := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	e := costs.Env{
		Gateway: key.Public(), Exit: exit.Public(), Trusted: netip.MustParseAddr("198.51.100.9"),
		Target: target, Open: target, Denied: netip.MustParseAddrPort("10.0.0.1:53"), Host: "dns.example",
		Clients: 4, Rand: rand.Reader, Now: func() time.Time { return now },
	}
	directory := router.NewDirectory([]uri.Gateway{{Identity: e.Exit, Host: e.Trusted.String(), Port: 51264}}, nil)
	if err := directory.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	out := new(socket)
	shard, detach, err := router.NewDetached(router.Config{
		Identity:  key,
		KEMs:      []kem.ID{kem.MLKEM768},
		Policy:    policy.New(policy.Config{Allow: []policy.Rule{{Prefix: netip.MustParsePrefix("127.0.0.1/32")}}}),
		Directory: directory,
		Clock:     e.Now,

		Registration: router.Registration{Registrar: costs.BusyRegistrar()},
	}, out)
	if err != nil {
		t.Fatal(err)
	}
	defer detach()
	e.Exchange = func(p ...transport.Packet) []transport.Packet {
		shard.Receive(now, p, nil)
		sent := out.sent
		out.sent = nil
		return sent
	}
	next, counted := k.Start(&e), uint64(0)
	for range packets {
		now = now.Add(10 * time.Millisecond)
		p, ok := next()
		if !ok {
			t.Fatal("the gateway refuses what has to come before the packet")
		}
		before := shard.Stats()
		e.Deliver(e.Exchange(p)...)
		after := shard.Stats()
		if k.Counter != "" {
			counted += *k.Counted(&after) - *k.Counted(&before)
		}
	}
	if k.Counter != "" && counted < packets/2 {
		t.Errorf("%d of %d packets were counted as %s", counted, packets, k.Counter)
	}
}
