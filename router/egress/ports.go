package egress

import (
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"lewes/router/account"
	"lewes/state/snapshot"
)

const (
	// Quarantine is the time for which a pair is not used again.
	Quarantine = 30 * time.Second
	// MaxPairs bounds the pairs in quarantine, as two halves; beyond it the older half is forgotten
	// early. A pair takes 15 to 21 bytes.
	MaxPairs = 2 << 20
	// tries bounds the ports that Take compares. They suffice with a likelihood of 96 % if 95 % of an
	// account's ports are taken.
	tries = 64
)

// Ports chooses the local ports of connected sockets. It is safe for concurrent use.
type Ports struct {
	ports    Range
	reserved portSet // not taken
	now      func() time.Time
	seed     maphash.Seed // of the accounts' shares
	limit    int          // pairs in a half

	mu     sync.Mutex
	inUse  pairs
	halves [2]pairs  // in quarantine: the newer half first
	swapAt time.Time // when the newer half becomes the older one
}

// pair is the hash of a port and a target, the same in all processes. A collision only makes a free
// pair look taken. In a map bytes take less space than a uint64.
type pair [8]byte

type pairs map[pair]struct{}

// NewPorts returns the ports of a range without those that the machine reserves. A nil clock means
// time.Now.
func NewPorts(ports Range, now func() time.Time) *Ports {
	if now == nil {
		now = time.Now
	}
	return &Ports{
		ports: ports, reserved: readReserved(), now: now, seed: maphash.MakeSeed(), limit: MaxPairs / 2,
		inUse: pairs{}, halves: [2]pairs{{}, {}},
	}
}

func pairOf(port uint16, target netip.AddrPort) pair {
	var b [20]byte
	addr := target.Addr().As16()
	copy(b[:], addr[:])
	binary.LittleEndian.PutUint16(b[16:], target.Port())
	binary.LittleEndian.PutUint16(b[18:], port)
	sum := sha256.Sum256(b[:])
	return pair(sum[:8])
}

// Take implements udp.Ports, for the gateway itself.
func (p *Ports) Take(target netip.AddrPort) (uint16, error) {
	return p.takeOf(target, account.Key{})
}

// share is the part of Ports that one account may use.
type share struct {
	*Ports
	by account.Key
}

// Take implements udp.Ports.
func (s *share) Take(target netip.AddrPort) (uint16, error) { return s.takeOf(target, s.by) }

// takeOf returns a port of an account's share. It fails with EADDRNOTAVAIL if it finds no free pair.
func (p *Ports) takeOf(target netip.AddrPort, by account.Key) (uint16, error) {
	var seed [8]byte
	_, _ = crand.Read(seed[:]) // never fails
	random := rand.NewPCG(binary.LittleEndian.Uint64(seed[:]), 0)
	count := uint64(p.ports[1]-p.ports[0]) + 1
	for tried, drawn := 0, 0; tried < tries && drawn < 8*tries; drawn++ {
		port := p.ports[0] + uint16(random.Uint64()>>32*count>>32)
		if p.reserved.has(port) || !p.shares(by, port) {
			continue
		}
		if p.take(pairOf(port, target)) {
			return port, nil
		}
		tried++
	}
	return 0, fmt.Errorf("egress: no free port towards the target: %w", syscall.EADDRNOTAVAIL)
}

// shares reports whether an account may use a port: a half of all, another one for each account. What
// one account uses up thus leaves ports to every other, whatever their number.
func (p *Ports) shares(by account.Key, port uint16) bool {
	if by == (account.Key{}) {
		return true
	}
	return maphash.Comparable(p.seed, accountPort{by, port})&1 == 0
}

type accountPort struct {
	account account.Key
	port    uint16
}

// take takes a pair if it is free.
func (p *Ports) take(one pair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swap()
	for _, set := range [...]pairs{p.inUse, p.halves[0], p.halves[1]} {
		if _, ok := set[one]; ok {
			return false
		}
	}
	p.inUse[one] = struct{}{}
	return true
}

// Hold implements udp.Ports.
func (p *Ports) Hold(port uint16, target netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inUse[pairOf(port, target)] = struct{}{}
}

// Release implements udp.Ports. The pair of a socket that was connected goes into quarantine.
func (p *Ports) Release(port uint16, target netip.AddrPort, connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := pairOf(port, target)
	delete(p.inUse, one)
	if connected {
		p.swap()
		p.halves[0][one] = struct{}{}
	}
}

// swap makes room in the newer half when it is due: a pair stays for one to two times Quarantine.
func (p *Ports) swap() {
	now := p.now()
	late := now.Sub(p.swapAt)
	if late < 0 && len(p.halves[0]) < p.limit {
		return
	}
	p.halves = [2]pairs{{}, p.halves[0]}
	if late >= Quarantine {
		p.halves[1] = pairs{}
	}
	p.swapAt = now.Add(Quarantine)
}

// pairsInFrame is the number of pairs in a frame of a snapshot.
const pairsInFrame = 8 << 10

// Write sends the pairs to a successor, as payloads for Read. Those in use count as just released: the
// successor holds those of the sockets that it inherits, and not every socket is handed over.
func (p *Ports) Write(send func(payload []byte) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swap()
	left := p.swapAt.Sub(p.now())
	for i, sets := range [2][]pairs{{p.inUse, p.halves[0]}, {p.halves[1]}} {
		var all []pair
		for _, set := range sets {
			all = slices.AppendSeq(all, maps.Keys(set))
		}
		for len(all) > 0 {
			n := min(len(all), pairsInFrame)
			w := snapshot.NewWriter(make([]byte, 0, 16+8*n), time.Time{})
			codePairs(snapshot.Encode(w), &left, &i, all[:n])
			if err := send(w.Bytes()); err != nil {
				return err
			}
			all = all[n:]
		}
	}
	return nil
}

// Read adds the pairs of a predecessor.
func (p *Ports) Read(payload []byte) error {
	r := snapshot.NewReader(payload, time.Time{})
	left, half := time.Duration(0), 0
	all := codePairs(snapshot.Decode(r), &left, &half, nil)
	if err := r.End(); err != nil {
		return fmt.Errorf("egress: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swapAt = p.now().Add(left)
	for _, one := range all {
		p.halves[half][one] = struct{}{}
	}
	return nil
}

// codePairs codes a frame: the time to the next swap, a half and its pairs.
func codePairs(c *snapshot.Codec, left *time.Duration, half *int, all []pair) []pair {
	c.Duration(left)
	snapshot.Int(c, half)
	c.Check(*left >= 0 && *left <= Quarantine && *half <= 1, "half %d for %v", *half, *left)
	n := c.Count(len(all), pairsInFrame, 8)
	if c.Decoding() {
		all = make([]pair, n)
	}
	for i := range all {
		c.Fixed(all[i][:])
	}
	return all
}
