package udp

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"pgregory.net/rapid"

	"lewes/state/path"
	"lewes/transport"
)

// packetWith is as short as a packet gets, with a receiver index in its header.
func packetWith(index uint32) []byte {
	p := make([]byte, 34)
	binary.LittleEndian.PutUint32(p, index)
	for i := 4; i < len(p); i++ {
		p[i] = byte(i * 7) // what stands elsewhere is of no matter
	}
	return p
}

// helloWith is a ClientHello that asks for an index.
func helloWith(index uint32) []byte {
	p := packetWith(0)
	binary.LittleEndian.PutUint32(p[18:], index)
	return p
}

func TestSteeringProgramMatchesShard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Steer{Secret: rapid.Uint32().Draw(t, "secret"), Shards: rapid.IntRange(1, 300).Draw(t, "shards")}
		raw, err := s.program()
		if err != nil {
			t.Fatal(err)
		}
		program, ok := bpf.Disassemble(raw)
		if !ok {
			t.Fatal("the program cannot be read back")
		}
		vm, err := bpf.NewVM(program)
		if err != nil {
			t.Fatal(err)
		}
		index := rapid.Uint32Min(1).Draw(t, "index") // 0 says: look in the content
		for _, p := range [][]byte{packetWith(index), helloWith(index)} {
			got, err := vm.Run(p)
			if err != nil || got != s.Shard(index) {
				t.Fatalf("the program gives %d, %v, Shard %d", got, err, s.Shard(index))
			}
		}
		short := packetWith(0)[:rapid.IntRange(0, 21).Draw(t, "length")]
		if got, err := vm.Run(short); err != nil || got != 0 {
			t.Fatalf("packet of %d bytes without an index: %d, %v, want shard 0", len(short), got, err)
		}
	})
}

func TestShardsAreEven(t *testing.T) {
	for _, shards := range []int{1, 2, 3, 8, 64} {
		s := Steer{Secret: 0x9e3779b9, Shards: shards}
		counts := make([]int, shards)
		r := rand.New(rand.NewPCG(1, 2))
		const n = 64000
		for range n {
			counts[s.Shard(r.Uint32())]++
		}
		for i, got := range counts {
			if want := n / shards; got < want*8/10 || got > want*12/10 {
				t.Errorf("%d shards: %d of %d in shard %d", shards, got, n, i)
			}
		}
	}
	if got := (Steer{Secret: 7}).Shard(1 << 31); got != 0 {
		t.Errorf("without shards: %d, want 0", got)
	}
}

// Over sockets: the kernel gives each datagram to the socket that Shard names.
func TestKernelSteeringMatchesShard(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		for _, addr := range loopbacks {
			for _, shards := range []int{2, 3, 8} {
				steer := Steer{Secret: 0xdeadbeef, Shards: shards}
				l, err := Listen(t.Context(), Config{
					Addrs:   []netip.AddrPort{netip.AddrPortFrom(addr, 0)},
					Steer:   steer,
					Options: o,
				})
				if err != nil {
					if addr.Is6() {
						t.Skipf("no IPv6 here: %v", err)
					}
					t.Fatal(err)
				}
				group := l.Groups[0]
				if !group.Steered || len(group.Conns) != shards || l.Shards() != shards {
					t.Fatalf("steered %v, %d sockets, want %d", group.Steered, len(group.Conns), shards)
				}
				// GSO would make of many packets one, and BPF sees the first only.
				from := dialTo(t, group.Addr, Options{NoGSO: true})
				const indexes = 1200
				var sent []transport.Packet
				want := make([]map[string]bool, shards)
				for i := range want {
					want[i] = map[string]bool{}
				}
				r := rand.New(rand.NewPCG(uint64(shards), 3))
				for i := range indexes {
					index := r.Uint32()
					p := packetWith(index)
					if i%2 == 0 {
						p = helloWith(index)
					}
					sent = append(sent, transport.Packet{Data: p})
					want[steer.Shard(index)][string(p)] = true
				}
				for _, p := range [][]byte{{}, {1, 2}, make([]byte, 21)} { // without an index
					sent = append(sent, transport.Packet{Data: p})
					want[0][string(p)] = true
				}
				mustWrite(t, from, sent)
				for shard, c := range group.Conns {
					for _, d := range tryCollect(t, c, len(want[shard]), 5*time.Second) {
						if !want[shard][string(d.data)] {
							t.Fatalf("shard %d of %d got %x, which is another's", shard, shards, d.data)
						}
						delete(want[shard], string(d.data))
					}
					if len(want[shard]) > 0 {
						t.Fatalf("shard %d of %d: %d datagrams never came", shard, shards, len(want[shard]))
					}
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// A second gateway on the same port must fail, not take half of the datagrams.
func TestPortIsNotSharedWithOtherProcesses(t *testing.T) {
	for _, first := range []int{1, 3} {
		for _, second := range []int{1, 3} {
			cfg := Config{Addrs: []netip.AddrPort{netip.AddrPortFrom(loopbacks[0], 0)}, Steer: Steer{Secret: 1, Shards: first}}
			l, err := Listen(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{l.Groups[0].Addr}, Steer: Steer{Secret: 1, Shards: second}})
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("%d shards, then %d: %v, want EADDRINUSE", first, second, err)
			}
			if again != nil {
				_ = again.Close()
			}
			_ = l.Close()
		}
	}
}

// Sessions answer from the socket that they came to, or from another: that is the
// same address.
func TestEveryShardSendsFromTheSharedPort(t *testing.T) {
	l, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{netip.AddrPortFrom(loopbacks[0], 0)}, Steer: Steer{Secret: 1, Shards: 3}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := dialTo(t, l.Groups[0].Addr, Options{})
	for _, c := range l.Groups[0].Conns {
		sent := packetsOf(path.NewUDP(to.LocalAddrPort(), loopbacks[0], 0), 10, 10, 3)
		mustWrite(t, c, sent)
		sameDatagrams(t, collect(t, to, 3), sent)
	}
}
