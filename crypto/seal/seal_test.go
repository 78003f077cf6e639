package seal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"lewes/crypto/internal/vectors"
	"lewes/crypto/seal"
)

var suites = []seal.Suite{seal.ChaCha20Poly1305, seal.AES256GCM}

// ChaCha20-Poly1305 seals as version 1 does: the reference packets open and are
// sealed again byte for byte.
//
// Shows R1.7.
func TestReferencePackets(t *testing.T) {
	type row struct {
		Type      string      `json:"message_type"`
		Key       vectors.Hex `json:"key"`
		Plaintext vectors.Hex `json:"plaintext"`
		Packet    vectors.Hex `json:"packet"`
	}
	vectors.Each(t, "outer_aead.json", func(t *testing.T, rows []row) {
		for _, r := range rows {
			checkPacket(t, r.Type, seal.ChaCha20Poly1305, r.Key, r.Plaintext, r.Packet)
		}
	})
}

// Packets from another implementation, with both suites, all levels and the ends
// of the sequence.
//
// Shows R1.7.
func TestIndependentPackets(t *testing.T) {
	type row struct {
		Suite  string      `json:"suite"`
		Key    vectors.Hex `json:"key"`
		Body   vectors.Hex `json:"body"`
		Packet vectors.Hex `json:"packet"`
	}
	seen := map[string]int{}
	for i, r := range vectors.Own[[]row](t, "packets.json") {
		for _, s := range suites {
			if s.String() == r.Suite {
				checkPacket(t, fmt.Sprintf("row %d, %s", i, r.Suite), s, r.Key, r.Body, r.Packet)
				seen[r.Suite]++
			}
		}
	}
	if len(seen) != len(suites) {
		t.Errorf("rows for %v only", seen)
	}
}

func checkPacket(t *testing.T, name string, s seal.Suite, key, body, packet []byte) {
	t.Helper()
	k := seal.NewKey(s, (*[32]byte)(key))
	opened, err := k.Open(bytes.Clone(packet))
	if err != nil || !bytes.Equal(opened, body) {
		t.Errorf("%s: opens to %x, %v", name, opened, err)
	}
	made := append(bytes.Clone(packet[:12]), body...)
	made = append(made, make([]byte, 16)...)
	if !k.Seal(made) || !bytes.Equal(made, packet) {
		t.Errorf("%s: sealed to %x, want %x", name, made, packet)
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(suites).Draw(t, "suite")
		k := seal.NewKey(s, (*[32]byte)(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key")))
		header := rapid.SliceOfN(rapid.Byte(), 12, 12).Draw(t, "header")
		body := rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "body")

		// The packet lies in a larger buffer, as in a batch: the bytes around it
		// must not change.
		buffer := bytes.Repeat([]byte{0xee}, 32)
		packet := append(append(append(buffer, header...), body...), make([]byte, 16)...)
		packet = append(packet, bytes.Repeat([]byte{0xee}, 32)...)
		buffer, packet = packet, packet[32:len(packet)-32]

		if !k.Seal(packet) {
			t.Fatal("not sealed")
		}
		if !bytes.Equal(packet[:12], header) {
			t.Fatal("the header changed")
		}
		if len(body) >= 16 && bytes.Contains(packet, body) {
			t.Fatal("the body is still in the packet")
		}
		got, err := k.Open(packet)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("opened to %x, %v", got, err)
		}
		if len(got) > 0 && &got[0] != &packet[12] {
			t.Fatal("the body does not alias the packet")
		}
		edge := bytes.Repeat([]byte{0xee}, 32)
		if !bytes.Equal(buffer[:32], edge) || !bytes.Equal(buffer[len(buffer)-32:], edge) {
			t.Fatal("bytes outside the packet changed")
		}
	})
}

// Shows R1.8.
func TestOpenRejectsFlippedBit(t *testing.T) {
	for _, s := range suites {
		for _, size := range []int{seal.Overhead, 34, 100, 193} {
			k := seal.NewKey(s, &[32]byte{1})
			packet := bytes.Repeat([]byte{0x35}, size)
			k.Seal(packet)
			for bit := range size * 8 {
				bad := bytes.Clone(packet)
				bad[bit/8] ^= 1 << (bit % 8)
				if body, err := k.Open(bad); !errors.Is(err, seal.ErrOpen) || body != nil {
					t.Fatalf("%v, %d bytes, bit %d flipped: %x, %v", s, size, bit, body, err)
				}
			}
			if _, err := k.Open(packet); err != nil {
				t.Fatalf("%v: the packet itself: %v", s, err)
			}
		}
	}
}

func TestOpenRejectsOtherKey(t *testing.T) {
	for _, s := range suites {
		packet := make([]byte, 100)
		seal.NewKey(s, &[32]byte{1}).Seal(packet)
		for name, k := range map[string]*seal.Key{
			"another key":      seal.NewKey(s, &[32]byte{1, 31: 0x80}),
			"another suite":    seal.NewKey(seal.ChaCha20Poly1305^seal.AES256GCM^s, &[32]byte{1}),
			"both suites":      seal.NewKey(seal.ChaCha20Poly1305|seal.AES256GCM, &[32]byte{1}),
			"no suite":         seal.NewKey(0, &[32]byte{1}),
			"an unknown suite": seal.NewKey(4, &[32]byte{1}),
		} {
			if _, err := k.Open(bytes.Clone(packet)); !errors.Is(err, seal.ErrOpen) {
				t.Errorf("%v, %s: error %v", s, name, err)
			}
		}
	}
}

func TestShortPacketsAreRejected(t *testing.T) {
	for _, s := range suites {
		k := seal.NewKey(s, &[32]byte{1})
		for n := range seal.Overhead {
			if k.Seal(make([]byte, n)) {
				t.Errorf("%v: %d bytes sealed", s, n)
			}
			if _, err := k.Open(make([]byte, n)); !errors.Is(err, seal.ErrOpen) {
				t.Errorf("%v: %d bytes opened: %v", s, n, err)
			}
		}
	}
}

// A pooled nonce must keep nothing of the previous packet.
func TestNonceFollowsCounter(t *testing.T) {
	for _, s := range suites {
		k := seal.NewKey(s, &[32]byte{1})
		seen := map[string]uint64{}
		for _, counter := range []uint64{0, 1, 2, 255, 256, 1<<32 - 1, 1 << 32, 1<<62 - 1, 1 << 62, 1<<63 + 5, 1<<64 - 1} {
			packet := make([]byte, 60)
			binary.LittleEndian.PutUint64(packet[4:], counter)
			k.Seal(packet)
			if other, ok := seen[string(packet[12:44])]; ok {
				t.Errorf("%v: counters %d and %d have the same key stream", s, other, counter)
			}
			seen[string(packet[12:44])] = counter
		}
	}
}

// Many goroutines seal and open under one key while it is compacted and the
// collector erases the dropped ciphers.
func TestConcurrentUse(t *testing.T) {
	for _, s := range suites {
		t.Run(s.String(), func(t *testing.T) {
			k := seal.NewKey(s, &[32]byte{1})
			reference := seal.NewKey(s, &[32]byte{1})
			done := make(chan struct{})
			var users, rest sync.WaitGroup
			for g := range 4 {
				users.Go(func() {
					packet := make([]byte, 300)
					for i := range 2000 {
						clear(packet)
						packet[0] = byte(g)
						binary.LittleEndian.PutUint64(packet[4:], uint64(i))
						if !k.Seal(packet) {
							t.Error("not sealed")
							return
						}
						key := reference
						if i%2 == 0 {
							key = k
						}
						if body, err := key.Open(packet); err != nil || !bytes.Equal(body, make([]byte, 272)) {
							t.Errorf("packet %d of goroutine %d: %v", i, g, err)
							return
						}
					}
				})
			}
			rest.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						k.Compact()
						runtime.GC()
					}
				}
			})
			users.Wait()
			close(done)
			rest.Wait()
		})
	}
}

func TestWipedKeyRefusesPackets(t *testing.T) {
	for _, s := range suites {
		for _, rested := range []bool{false, true} {
			k := seal.NewKey(s, &[32]byte{1})
			packet := make([]byte, 100)
			k.Seal(packet)
			if rested {
				k.Compact()
			}
			k.Wipe()
			if _, err := k.Open(bytes.Clone(packet)); !errors.Is(err, seal.ErrOpen) {
				t.Errorf("%v: a wiped key opens: %v", s, err)
			}
			if k.Seal(make([]byte, 100)) {
				t.Errorf("%v: a wiped key seals", s)
			}
			k.Compact()
			k.Wipe()
			if k.Seal(make([]byte, 100)) {
				t.Errorf("%v: Compact revived a wiped key", s)
			}
		}
	}
}

// A packet sealed while the key is wiped is sealed under the key or not at all,
// never under zeros.
func TestWipeDuringSeal(t *testing.T) {
	for _, s := range suites {
		for range 50 {
			k := seal.NewKey(s, &[32]byte{1})
			reference := seal.NewKey(s, &[32]byte{1})
			var group sync.WaitGroup
			for range 2 {
				group.Go(func() {
					for i := 0; ; i++ {
						packet := make([]byte, 200)
						binary.LittleEndian.PutUint64(packet[4:], uint64(i))
						if !k.Seal(packet) {
							return
						}
						if _, err := reference.Open(packet); err != nil {
							t.Errorf("%v: packet %d was sealed under another key", s, i)
							return
						}
					}
				})
			}
			runtime.Gosched()
			k.Wipe()
			runtime.GC()
			group.Wait()
		}
	}
}

func TestKeyIsCopied(t *testing.T) {
	secret := [32]byte{1}
	k := seal.NewKey(seal.ChaCha20Poly1305, &secret)
	secret = [32]byte{}
	packet := make([]byte, 100)
	k.Seal(packet)
	if _, err := seal.NewKey(seal.ChaCha20Poly1305, &[32]byte{1}).Open(packet); err != nil {
		t.Error("the key changed with the caller's bytes")
	}
}

func TestKeyIsNeverPrinted(t *testing.T) {
	secret := [32]byte([]byte("0123456789abcdefghijklmnopqrstuv"))
	k := seal.NewKey(seal.AES256GCM, &secret)
	k.Seal(make([]byte, 100))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		if got := fmt.Sprintf(verb, k); got != "seal.Key(redacted)" {
			t.Errorf("%s prints %q", verb, got)
		}
		got := fmt.Sprintf(verb, struct{ key *seal.Key }{k})
		if strings.Contains(got, "456789") || strings.Contains(got, "53 54 55 56") || strings.Contains(got, "34353637") {
			t.Errorf("%s of a struct around it prints %q", verb, got)
		}
	}
}

// Shows R3.10, R3.11.
func TestChoose(t *testing.T) {
	both := seal.ChaCha20Poly1305 | seal.AES256GCM
	for _, c := range []struct {
		offer, own, want seal.Suite
		ok               bool
	}{
		{both, both, seal.AES256GCM, true},
		{both, seal.ChaCha20Poly1305, seal.ChaCha20Poly1305, true},
		{seal.ChaCha20Poly1305, both, seal.ChaCha20Poly1305, true},
		{seal.AES256GCM, both, seal.AES256GCM, true},
		{seal.AES256GCM, seal.ChaCha20Poly1305, 0, false},
		{0, both, 0, false},
		{0xfc, 0xff, 0, false},
		{0xfd, both, seal.ChaCha20Poly1305, true},
		{0xff, 0xff, seal.AES256GCM, true},
	} {
		got, ok := seal.Choose(c.offer, c.own)
		if got != c.want || ok != c.ok {
			t.Errorf("Choose(%v, %v) = %v, %v, want %v, %v", c.offer, c.own, got, ok, c.want, c.ok)
		}
		if reverse, ok := seal.Choose(c.own, c.offer); reverse != c.want || ok != c.ok {
			t.Errorf("Choose(%v, %v) depends on the side", c.offer, c.own)
		}
	}
}

// Shows R3.9.
func TestOffer(t *testing.T) {
	offer := seal.Offer()
	if offer&seal.ChaCha20Poly1305 == 0 {
		t.Errorf("ChaCha20-Poly1305 is missing from %v", offer)
	}
	if offer&^(seal.ChaCha20Poly1305|seal.AES256GCM) != 0 {
		t.Errorf("unknown bits in %v", offer)
	}
	for n := range 256 {
		s := seal.Suite(n)
		if s.Valid() != (n == 1 || n == 2) {
			t.Errorf("%v valid: %v", s, s.Valid())
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, s := range suites {
		packet := make([]byte, 64)
		seal.NewKey(s, &[32]byte{1}).Seal(packet)
		f.Add(byte(s), packet)
		f.Add(byte(s), packet[:30])
	}
	f.Add(byte(0), []byte{})
	f.Fuzz(func(t *testing.T, suite byte, packet []byte) {
		k := seal.NewKey(seal.Suite(suite), &[32]byte{1})
		original := bytes.Clone(packet)
		body, err := k.Open(packet)
		if err != nil {
			return
		}
		if len(body) != len(packet)-seal.Overhead {
			t.Fatalf("%d bytes of a packet of %d", len(body), len(packet))
		}
		if !k.Seal(packet) || !bytes.Equal(packet, original) {
			t.Fatal("sealing the opened packet gives other bytes")
		}
	})
}
