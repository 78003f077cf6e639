package demo

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"lewes/router"
	"lewes/router/account"
	"lewes/transport"
)

// observed holds the observations of a witness: the party's peers and own addresses, its datagrams, and those that
// contain a secret.
type observed struct {
	dialled, locals []netip.AddrPort
	sent, received  uint64
	leaks           int
}

// witness observes one party's sockets.
type witness struct {
	secrets [][]byte
	mu      sync.Mutex
	observed
}

func (w *witness) sight() observed { return locked(&w.mu, &w.observed) }

// locked returns a copy of *v, a value whose slices are only appended to.
func locked[T any](mu *sync.Mutex, v *T) T {
	mu.Lock()
	defer mu.Unlock()
	return *v
}

// addOnce appends v to the list unless it contains v.
func addOnce[T comparable](mu *sync.Mutex, list *[]T, v T) {
	mu.Lock()
	defer mu.Unlock()
	if !slices.Contains(*list, v) {
		*list = append(*list, v)
	}
}

// watch returns a Conn that reports to w.
func (w *witness) watch(c transport.Conn, to netip.AddrPort) transport.Conn {
	addOnce(&w.mu, &w.dialled, to)
	addOnce(&w.mu, &w.locals, c.LocalAddr().(*net.UDPAddr).AddrPort())
	return &watchedConn{c, w}
}

// note counts a batch, in one direction.
func (w *witness) note(count *uint64, batch []transport.Packet) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range batch {
		for datagram := range batch[i].Segments() {
			*count++
			if slices.ContainsFunc(w.secrets, func(s []byte) bool { return bytes.Contains(datagram, s) }) {
				w.leaks++
			}
		}
	}
}

type watchedConn struct {
	transport.Conn
	witness *witness
}

func (c *watchedConn) ReadBatch(p []transport.Packet) (int, error) {
	n, err := c.Conn.ReadBatch(p)
	c.witness.note(&c.witness.received, p[:n])
	return n, err
}

func (c *watchedConn) WriteBatch(p []transport.Packet) (int, error) {
	n, err := c.Conn.WriteBatch(p)
	c.witness.note(&c.witness.sent, p[:n])
	return n, err
}

// watchedEgress is an Egress with a witness.
type watchedEgress struct {
	router.Egress
	witness *witness
}

func (e *watchedEgress) Dial(target netip.AddrPort, by account.Key) (transport.Conn, error) {
	conn, err := e.Egress.Dial(target, by)
	if err != nil {
		return nil, err
	}
	return e.witness.watch(conn, target), nil
}

// drainTimeout bounds the wait for the last packets to be counted.
const drainTimeout = 2 * time.Second

// judge checks the claims about which party saw what against the witnesses' observations.
//
// The sources of a gateway's packets are verified by counting: if its listening socket received exactly
// as many datagrams as one party sent to it, then all were that party's. The answers that the party
// received show that the gateway knew its address.
func (d *demo) judge(ctx context.Context, r *Report) {
	quiet := d.drain(ctx)
	sender, entryOut, exitOut := d.sender.sight(), d.entry.out.sight(), d.exit.out.sight()
	entryIn, exitIn := d.entry.received(), d.exit.received()
	entryAt, exitAt := d.entry.Addrs()[0], d.exit.Addrs()[0]
	entry, exit := d.entry.Stats(), d.exit.Stats()
	targetFrom := locked(&d.target.mu, &d.target.from)
	entryClients, exitClients := locked(&d.entry.mu, &d.entry.seen), locked(&d.exit.mu, &d.exit.seen)

	r.Parties = Parties{
		Client: addresses(sender.locals), Entry: entryAt.String(), EntryOut: addresses(entryOut.locals),
		Exit: exitAt.String(), ExitOut: addresses(exitOut.locals), Target: d.target.addr.String(),
	}
	p := &r.Parties

	r.check(r.Keys == 1, "the session rekeyed in the middle", "its key set is generation %d", r.Keys)

	fromClient := quiet && only(sender.dialled, entryAt) && len(sender.locals) == 1 && entryIn == sender.sent && sender.received > 0
	r.check(fromClient, fmt.Sprintf("the entry saw the client's address: all %d datagrams it received came from there", sender.sent),
		"the client %s sent %d to %s, the entry received %d", p.Client, sender.sent, addresses(sender.dialled), entryIn)
	toExit := only(entryOut.dialled, exitAt) && entry.FlowsOpened == 0 && entry.Forwarded > 0
	r.check(toExit, "the entry sent to the exit only, and opened no flow to a target",
		"it sent to %s and opened %d flows", addresses(entryOut.dialled), entry.FlowsOpened)
	r.check(entryOut.leaks == 0 && entryOut.sent > 0, fmt.Sprintf("none of the %d packets forwarded by the entry exposed target or payload", entryOut.sent+entryOut.received),
		"%d did", entryOut.leaks)

	fromEntry := quiet && len(entryOut.locals) == 1 && exitIn == entryOut.sent && entryOut.received > 0
	r.check(fromEntry && !slices.Contains(entryOut.locals, one(sender.locals)), fmt.Sprintf("the exit did not see the client's address: all %d datagrams it received came from the entry", entryOut.sent),
		"the entry %s sent %d, the exit received %d", p.EntryOut, entryOut.sent, exitIn)
	toTarget := only(exitOut.dialled, d.target.addr) && exit.FlowsOpened == 1
	r.check(toTarget, "the exit sent to the target only",
		"it sent to %s and opened %d flows", addresses(exitOut.dialled), exit.FlowsOpened)
	r.check(only(entryClients, d.entry.client) && only(exitClients, d.exit.client) && d.entry.client != d.exit.client, "entry and exit know the client by different identities, and no other client",
		"the entry saw %v, the exit %v", entryClients, exitClients)
	r.check(len(exitOut.locals) == 1 && only(targetFrom, one(exitOut.locals)), "the target saw the exit's address only",
		"it saw %s", addresses(targetFrom))
	r.check(sender.leaks == 0 && sender.sent > 0, fmt.Sprintf("none of the %d packets between client and entry exposed target or payload", sender.sent+sender.received),
		"%d did", sender.leaks)

	p.EntrySaw, p.EntryTo = saw(fromClient, "the client, ", p.Client), saw(toExit && entryOut.leaks == 0, "the exit, and no target", "")
	p.ExitSaw, p.ExitTo = saw(fromEntry, "the entry, ", p.EntryOut), saw(toTarget, "the target, ", p.Target)
	p.TargetSaw = saw(only(targetFrom, one(exitOut.locals)), "the exit, ", addresses(targetFrom))
}

// drain waits until every datagram sent to a gateway has been received, and reports whether it has.
func (d *demo) drain(ctx context.Context) bool {
	for end := time.Now().Add(drainTimeout); ; {
		if d.entry.received() == d.sender.sight().sent && d.exit.received() == d.entry.out.sight().sent {
			return true
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func only[T comparable](seen []T, one T) bool { return len(seen) == 1 && seen[0] == one }

// one returns the first of addrs, or no address.
func one(addrs []netip.AddrPort) netip.AddrPort {
	return append(slices.Clip(addrs), netip.AddrPort{})[0]
}

func saw(sure bool, who, address string) string {
	if !sure {
		return "not only " + who + address
	}
	return who + address
}

// addresses formats addresses for people.
func addresses(addrs []netip.AddrPort) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return cmp.Or(strings.Join(texts, " and "), "none")
}
