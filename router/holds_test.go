package router

import (
	"errors"
	"testing"
	"time"

	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/transport"
	"lewes/transport/udp"
)

// TestHeldAcrossShards asks for a session by hellos of random attempt indexes, which steer to the shards
// of the gateway: each shard answers Held, and once the session has ended, none does.
//
// Shows R4.9, R11.2.
func TestHeldAcrossShards(t *testing.T) {
	g, _ := started(t, func(c *Config) { c.Shards = 4 })
	to := loopback(g)
	owner := dialLive(t, 2, to)
	owner.connect()
	index := owner.session.Current().Index()
	ask := func(n uint64) error {
		conn, err := udp.Dial(to, udp.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		l := &live{t: t, conn: conn, batch: make([]transport.Packet, 8)}
		if l.client, err = state.NewClient(time.Now(), state.ClientConfig{
			Gateway: gatewayID.Public(), Identity: testIdentity(3), KEM: kem.MLKEM768, Suites: seal.Offer(),
			Rand: seeded(1000 + n), Path: path.Path{Peer: to}, Doubted: index,
		}, &l.out); err != nil {
			t.Fatal(err)
		}
		if !l.until(func() bool { return l.client.Err() != nil || l.client.Session() != nil }) {
			t.Fatal("no answer")
		}
		return l.client.Err()
	}
	for n := range uint64(16) {
		if err := ask(n); !errors.Is(err, state.ErrHeld) {
			t.Fatalf("hello %d that doubts a session: %v", n, err)
		}
	}
	for _, s := range g.shards {
		s.Do(func(now time.Time, st *shardState) {
			if keys := st.sessions.Find(index); keys != nil {
				st.closeSession(keys.Session(), 0, "")
			}
		})
	}
	if err := ask(100); err != nil {
		t.Errorf("a hello that doubts a session which is gone: %v", err)
	}
}
