package router

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"lewes/router/account"
	"lewes/state"
	"lewes/state/wire"
)

// heldLookups are lookups that end when their context or the gate does.
type heldLookups struct{ gate atomic.Pointer[chan struct{}] }

// hold makes later lookups wait for the next release.
func (h *heldLookups) hold() { h.gate.Store(new(make(chan struct{}))) }

func (h *heldLookups) release() { close(*h.gate.Load()) }

func (h *heldLookups) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-*h.gate.Load():
	}
	if host == "none.example" {
		return nil, errors.New("no address")
	}
	return []netip.Addr{target.Addr()}, nil
}

// FuzzAccounts lets three sessions of two accounts open and end flows, lookups, claims, rekeys and
// themselves in any order, while the shard's time is short. The accounts hold what the sessions have,
// and nothing when they have ended.
func FuzzAccounts(f *testing.F) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 0))
		ops := make([]byte, 300)
		for i := range ops {
			ops[i] = byte(random.Uint32())
		}
		f.Add(ops)
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		resolver := new(heldLookups)
		resolver.hold()
		r := newRig(t, func(c *Config) {
			withDirectory(t)(c)
			c.Resolver, c.MaxFlowsPerSession, c.MaxFlows, c.MaxLookups, c.MaxClaims = resolver, 8, 60, 12, 6
		})
		at := []string{"192.0.2.1", "192.0.2.1", "192.0.2.2"}
		peers := make([]*peer, len(at))
		for i := range peers {
			peers[i] = r.connect(byte(2+i), udpFrom(at[i], 1000+i))
		}
		r.shard.now = r.slowClock(50 * time.Microsecond)
		for n, i := 1000, 0; i+2 < len(ops); i += 3 {
			who, id := int(ops[i+1])%len(peers), uint16(ops[i+2]%10)
			p := peers[who]
			switch ops[i] % 12 {
			case 0, 1:
				p.data(id, target, "x")
			case 2:
				p.named(id, []string{"dns.example", "none.example"}[id%2], 53, "x")
			case 3:
				p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: id, Reason: wire.FlowIdle})
			case 4, 5:
				p.forward(id, &exitID, inner(1+uint32(ops[i+2]>>4), ops[i+2]&8 != 0))
			case 6:
				resolver.release()
				r.await(func() bool { return r.lookups() == r.queuedLookups() })
				resolver.hold()
			case 7:
				r.advance(time.Duration(ops[i+2]) * time.Second)
			case 8:
				r.advance(time.Duration(ops[i+2]) * time.Millisecond)
			case 9:
				r.egress.mu.Lock()
				r.egress.fail = [...]error{nil, errors.New("no route")}[id%2]
				r.egress.mu.Unlock()
			case 10:
				p.session.Rekey(r.now(), &p.out)
				p.run()
			default:
				p.session.Close(wire.CloseDone, "", &p.out)
				p.run()
				r.advance(2 * time.Second)
				n++
				peers[who] = r.connect(byte(2+who), udpFrom(at[who], n))
			}
			r.checkAccounts()
		}
		r.whole.closeSessions(t.Context())
		r.await(func() bool { return r.lookups() == 0 })
		for range 100 {
			r.advance(time.Second)
		}
		r.checkAccounts()
		st := &r.shard.st
		if st.work.len() > 0 || st.work.accounts.len() > 0 || st.flows.all.Len() > 0 || len(st.discarded) > 0 {
			t.Errorf("%d tasks, %d flows and %d sockets remain", st.work.len(), st.flows.all.Len(), len(st.discarded))
		}
		for _, res := range []account.Resource{account.Sessions, account.Flows, account.Forwards, account.Lookups, account.Claims} {
			if n := r.whole.accounts.InUse(res); n != 0 {
				t.Errorf("%d of resource %d are still in use", n, res)
			}
		}
	})
}

// await waits for work of other goroutines.
func (r *rig) await(done func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			r.t.Fatal("not done within 20 s")
		}
	}
}

// queuedLookups returns the number of names whose lookup waits for the shard's time.
func (r *rig) queuedLookups() (n int) {
	r.shard.Do(func(_ time.Time, st *shardState) {
		st.eachFlow(func(f *flow) {
			if f.step == flowQueued && f.target.Kind() == wire.TargetName {
				n++
			}
		})
	})
	return n
}

// checkAccounts compares what the accounts hold with what the sessions have.
func (r *rig) checkAccounts() {
	r.t.Helper()
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	type holding struct{ sessions, flows, forwards, claims int }
	want, total := map[*account.Account]*holding{}, holding{}
	r.shard.st.sessions.All(func(s *state.Session) {
		c := s.User.(*client)
		if want[c.account] == nil {
			want[c.account] = new(holding)
		}
		for _, h := range []*holding{want[c.account], &total} {
			h.sessions++
			h.flows += len(c.flows)
			h.forwards += len(c.forwards)
			h.claims += len(c.bindings)
		}
	})
	for a, h := range want {
		if got := (holding{a.Held(account.Sessions), a.Held(account.Flows), a.Held(account.Forwards), a.Held(account.Claims)}); got != *h {
			r.t.Fatalf("an account holds %+v, its sessions have %+v", got, *h)
		}
	}
	b := r.whole.accounts
	if got := (holding{b.InUse(account.Sessions), b.InUse(account.Flows), b.InUse(account.Forwards), b.InUse(account.Claims)}); got != total {
		r.t.Fatalf("in use: %+v, sessions have %+v", got, total)
	}
}
