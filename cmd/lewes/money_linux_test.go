package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/transport/client"
	"lewes/transport/uri"
)

var moneyKills = flag.Int("money.kills", 0, "how often TestKilledDuringSpends kills a gateway of 20 clients; 0: as often as a normal run has time for")

// maxGrants is the number of grants of an account.
const maxGrants = 64

// mortal is a gateway that is killed and started again, with the same ports and state.
type mortal struct {
	t    *testing.T
	dir  string
	to   uri.Gateway
	proc *process

	mu   sync.Mutex
	life context.Context // ends when the gateway is killed
	kill context.CancelFunc
	born chan struct{} // closed when it starts again
}

func newMortal(t *testing.T, m *mint) *mortal {
	t.Helper()
	g := &mortal{t: t, dir: t.TempDir(), born: make(chan struct{})}
	g.start(m, "port = 0\n[tcp]\nport = 0\n")
	return g
}

func (g *mortal) start(m *mint, ports string) {
	g.t.Helper()
	file := filepath.Join(g.dir, "gateway.toml")
	writeFile(g.t, file, fmt.Sprintf("state_dir = %q\naccess.mode = \"open\"\nmetrics.listen = \"\"\n[registration]\naccess = \"tickets\"\nissuers = [%q]\n[listen]\naddresses = [\"127.0.0.1\"]\n%s", g.dir, m.source, ports), 0o600)
	g.proc = launch(g.t, environment(g.dir), "gateway", "--config", file)
	line := g.proc.awaitLine("lewes://")
	g.proc.awaitLog("using the keys of an issuer")
	if g.to.Port == 0 { // the first time
		var err error
		if g.to, err = uri.Parse(line); err != nil {
			g.t.Fatal(err)
		}
		g.to.Tickets = false // the identities are the test's
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.life, g.kill = context.WithCancel(g.t.Context())
	close(g.born)
}

// restart kills the gateway and starts it again.
func (g *mortal) restart(m *mint) {
	g.t.Helper()
	g.proc.signal(syscall.SIGKILL)
	<-g.proc.done
	g.mu.Lock()
	g.born = make(chan struct{})
	g.kill()
	g.mu.Unlock()
	g.start(m, fmt.Sprintf("port = %d\n[tcp]\nport = %d\n", g.to.Port, g.to.PortForTCP()))
}

// alive waits for the gateway and returns its life.
func (g *mortal) alive() context.Context {
	g.mu.Lock()
	born := g.born
	g.mu.Unlock()
	select {
	case <-born:
	case <-g.t.Context().Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.life
}

// customer is a client that spends one ticket after the other, each until it is answered.
type customer struct {
	g       *mortal
	key     *identity.PrivateKey
	keys    client.KeyCache
	session *client.Session
	on      context.Context // the life of the session's gateway
	spent   [][]byte
}

// register sends a request until a gateway answers it.
func (c *customer) register(r client.RegisterRequest) (client.RegisterResult, error) {
	for {
		life := c.g.alive()
		result, err := c.try(life, r)
		switch {
		case err == nil && result.Code != client.RegisterBusy:
			return result, nil
		case err != nil && life.Err() == nil:
			return result, err
		case c.g.t.Context().Err() != nil:
			return result, c.g.t.Context().Err()
		}
	}
}

func (c *customer) try(life context.Context, r client.RegisterRequest) (client.RegisterResult, error) {
	if c.on != life {
		c.leave()
		s, err := client.Dial(life, client.Config{Gateway: c.g.to, Identity: c.key, Keys: &c.keys, NoReconnect: true, NoRegister: true, Timeout: patience})
		if err != nil {
			return client.RegisterResult{}, err
		}
		c.session, c.on = s, life
	}
	ctx, cancel := context.WithTimeout(life, patience)
	defer cancel()
	return c.session.Register(ctx, r)
}

func (c *customer) leave() {
	if c.session != nil {
		_ = c.session.Close()
		c.session, c.on = nil, nil
	}
}

func spending(ticket []byte) client.RegisterRequest {
	return client.RegisterRequest{Mode: client.ModeRelay, TicketType: client.TicketBlindRSA2048, Credential: ticket}
}

// TestKilledDuringSpends kills the gateway with SIGKILL while clients spend tickets: each spend is answered in the end,
// and each ticket is granted once.
func TestKilledDuringSpends(t *testing.T) {
	t.Parallel()
	clients, kills := 5, 2
	if *moneyKills > 0 {
		clients, kills = 20, *moneyKills
	}
	m := newMint(t)
	g := newMortal(t, m)
	var answered atomic.Int64
	var stop atomic.Bool
	var running sync.WaitGroup
	var customers []*customer
	for i := range clients {
		c := &customer{g: g, key: identity.FromSeed(&[32]byte{110, byte(i)})}
		customers = append(customers, c)
		defer c.leave()
		running.Go(func() {
			for !stop.Load() && !t.Failed() {
				n := len(c.spent)
				if n < maxGrants {
					c.spent = append(c.spent, m.ticket(g.to.Identity))
				} else {
					n = rand.N(n) // again, for the first answer
				}
				result, err := c.register(spending(c.spent[n]))
				if want := uint64(n+1) * ticketBytes; err != nil || !result.OK() || result.Remaining != want {
					t.Errorf("client %d, ticket %d: %v (%s), %d bytes remain, want %d; %v", i, n, result.Code, result.Detail, result.Remaining, want, err)
					return
				}
				answered.Add(1)
			}
		})
	}
	for range kills {
		for begun := answered.Load(); answered.Load() == begun && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(rand.N(20 * time.Millisecond)) // anywhere in a spend
		if t.Failed() {
			break
		}
		g.restart(m)
	}
	stop.Store(true)
	running.Wait()
	if t.Failed() {
		return
	}
	g.restart(m) // what is durable counts
	thief := &customer{g: g, key: identity.FromSeed(&[32]byte{111})}
	defer thief.leave()
	for i, c := range customers {
		balance, err := c.register(client.RegisterRequest{Mode: client.ModeBalance})
		if want := uint64(len(c.spent)) * ticketBytes; err != nil || balance.Remaining != want {
			t.Errorf("client %d has %d bytes, paid for %d; %v", i, balance.Remaining, want, err)
		}
		for n, ticket := range c.spent {
			if result, err := thief.register(spending(ticket)); err != nil || result.Code != client.RegisterAlreadySpent {
				t.Errorf("ticket %d of client %d can be spent again: %v, %v", n, i, result.Code, err)
			}
			if *moneyKills == 0 && n == 1 {
				break
			}
		}
	}
	t.Logf("%d spends, %d kills", answered.Load(), kills)
}

// TestOneTicketManySessions spends one ticket in many sessions at once: one identity gets one grant, in all of its sessions.
func TestOneTicketManySessions(t *testing.T) {
	t.Parallel()
	identities, each := 50, 2 // sessions
	if testing.Short() {
		identities = 5
	}
	m := newMint(t)
	g := newMortal(t, m)
	ticket := m.ticket(g.to.Identity)
	customers := make([]*customer, identities*each)
	results := make([]client.RegisterResult, len(customers))
	var ready, running sync.WaitGroup
	start := make(chan struct{})
	ready.Add(len(customers))
	for i := range customers {
		c := &customer{g: g, key: identity.FromSeed(&[32]byte{120, byte(i / each)})}
		customers[i] = c
		running.Go(func() {
			defer c.leave()
			result, err := c.register(client.RegisterRequest{Mode: client.ModeBalance})
			ready.Done()
			if err != nil || result.Code != client.RegisterTicketNeeded {
				t.Errorf("session %d before: %v, %v", i, result.Code, err)
				return
			}
			<-start
			if results[i], err = c.register(spending(ticket)); err != nil {
				t.Errorf("session %d: %v", i, err)
			}
		})
	}
	ready.Wait()
	close(start)
	running.Wait()
	if t.Failed() {
		return
	}
	granted := make(map[int]int) // identity → sessions
	for i, r := range results {
		switch {
		case r.OK() && r.Remaining == ticketBytes:
			granted[i/each]++
		case r.Code != client.RegisterAlreadySpent:
			t.Errorf("session %d: %v, %d bytes", i, r.Code, r.Remaining)
		}
	}
	if len(granted) != 1 {
		t.Errorf("granted to %d identities: %v", len(granted), granted)
	}
	for who, sessions := range granted {
		c := &customer{g: g, key: identity.FromSeed(&[32]byte{120, byte(who)})}
		defer c.leave()
		if balance, err := c.register(client.RegisterRequest{Mode: client.ModeBalance}); err != nil || balance.Remaining != ticketBytes || sessions != each {
			t.Errorf("granted in %d sessions, %d bytes remain, %v", sessions, balance.Remaining, err)
		}
	}
}
