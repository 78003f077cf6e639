package cookie_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/zeebo/blake3"
	"pgregory.net/rapid"

	"lewes/crypto/cookie"
	"lewes/crypto/identity"
)

var (
	t0     = time.Unix(1_800_000_000, 0)
	source = netip.MustParseAddrPort("198.51.100.7:40000")
	salt   = [32]byte{1, 2, 3}
)

func after(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }

func mustMake(t rapid.TB, j *cookie.Jar, now time.Time, from netip.AddrPort, idx uint32, salt *[32]byte) []byte {
	t.Helper()
	c, err := j.Make(now, from, idx, salt)
	if err != nil {
		t.Fatal(err)
	}
	return c[:]
}

func TestCookieMatchesDefinition(t *testing.T) {
	secret := bytes.Repeat([]byte{0x5c}, 32)
	for _, c := range []struct{ source, bytes string }{
		{"198.51.100.7:40000", "\xc6\x33\x64\x07\x40\x9c"},
		{"[::ffff:198.51.100.7]:40000", "\xc6\x33\x64\x07\x40\x9c"},
		{"[2001:db8::1]:1", "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\x00"},
	} {
		h, err := blake3.NewKeyed(secret)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = h.WriteString(c.bytes)
		_, _ = h.Write(binary.LittleEndian.AppendUint32(nil, 0xdecade01))
		_, _ = h.Write(salt[:])
		want := h.Sum(nil)[:cookie.Size]

		jar := cookie.NewJar(bytes.NewReader(secret))
		if got := mustMake(t, jar, t0, netip.MustParseAddrPort(c.source), 0xdecade01, &salt); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", c.source, got, want)
		}
	}
}

// Shows R4.18.
func TestCookieIsBound(t *testing.T) {
	addrs := rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "IPv4") {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr")))
		}
		return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr")))
	})
	salts := rapid.Custom(func(t *rapid.T) [32]byte {
		return [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "salt"))
	})
	rapid.Check(t, func(t *rapid.T) {
		jar := cookie.NewJar(rand.Reader)
		addr, other := addrs.Draw(t, "addr"), addrs.Draw(t, "other addr")
		port, idx, salt := rapid.Uint16().Draw(t, "port"), rapid.Uint32().Draw(t, "idx"), salts.Draw(t, "salt")
		from := netip.AddrPortFrom(addr, port)
		c := mustMake(t, jar, t0, from, idx, &salt)

		if !jar.Valid(t0, from, idx, &salt, c) {
			t.Fatal("own cookie rejected")
		}
		if other.Unmap() != addr.Unmap() && jar.Valid(t0, netip.AddrPortFrom(other, port), idx, &salt, c) {
			t.Fatalf("taken from %v, made for %v", other, addr)
		}
		if jar.Valid(t0, netip.AddrPortFrom(addr, port^uint16(1<<rapid.IntRange(0, 15).Draw(t, "port bit"))), idx, &salt, c) {
			t.Fatal("taken from another port")
		}
		if jar.Valid(t0, from, idx^1<<rapid.IntRange(0, 31).Draw(t, "idx bit"), &salt, c) {
			t.Fatal("taken for another attempt index")
		}
		bit := rapid.IntRange(0, 255).Draw(t, "salt bit")
		salt[bit/8] ^= 1 << (bit % 8)
		if jar.Valid(t0, from, idx, &salt, c) {
			t.Fatal("taken for another salt")
		}
		salt[bit/8] ^= 1 << (bit % 8)
		bit = rapid.IntRange(0, cookie.Size*8-1).Draw(t, "cookie bit")
		c[bit/8] ^= 1 << (bit % 8)
		if jar.Valid(t0, from, idx, &salt, c) {
			t.Fatal("a damaged cookie is accepted")
		}
	})
}

func TestMappedAddressEqualsIPv4(t *testing.T) {
	jar := cookie.NewJar(rand.Reader)
	mapped := netip.AddrPortFrom(netip.AddrFrom16(source.Addr().As16()), source.Port())
	if !jar.Valid(t0, mapped, 1, &salt, mustMake(t, jar, t0, source, 1, &salt)) {
		t.Error("a cookie for an IPv4 address is rejected for its mapped form")
	}
}

// Cookies made and checked at different ages of the jar, in seconds since its
// first cookie.
//
// Shows R4.19.
func TestSecretRotation(t *testing.T) {
	for _, c := range []struct {
		made, shown float64
		valid       bool
	}{
		{0, 0, true},
		{0, 119.9, true},
		{0, 120, true},
		{0, 239.9, true},
		{0, 240, false},
		{119.9, 239.9, true},
		{119.9, 240, false},
		{120, 240, true},
		{120, 359.9, true},
		{120, 360, false},
		{200, 359.9, true}, // rotated at 120 without a call
		{200, 360, false},
		{1000, 1190, true}, // made in 960 to 1080
		{1000, 1200, false},
		{0, 100 * 365 * 86400, false},
		{100, 50, true}, // a clock that goes back
		{130, 50, true},
	} {
		jar := cookie.NewJar(rand.Reader)
		mustMake(t, jar, t0, source, 9, &salt)
		cookie := mustMake(t, jar, after(c.made), source, 1, &salt)
		if got := jar.Valid(after(c.shown), source, 1, &salt, cookie); got != c.valid {
			t.Errorf("made after %v s, shown after %v s: valid %v, want %v", c.made, c.shown, got, c.valid)
		}
	}
}

// Validity depends on ages only, not on how often the jar is used.
func TestRotationDoesNotDependOnCalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		jar := cookie.NewJar(rand.Reader)
		type baked struct {
			at     time.Duration
			cookie []byte
		}
		var made []baked
		now := time.Duration(0)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			made = append(made, baked{now, mustMake(t, jar, t0.Add(now), source, 1, &salt)})
			now += time.Duration(rapid.IntRange(0, 200).Draw(t, "seconds")) * time.Second
			for _, m := range made {
				turns := now/cookie.Lifetime - m.at/cookie.Lifetime
				if got := jar.Valid(t0.Add(now), source, 1, &salt, m.cookie); got != (turns <= 1) {
					t.Fatalf("made at %v, shown at %v: valid %v", m.at, now, got)
				}
			}
		}
	})
}

func TestRotationDrawsNewSecret(t *testing.T) {
	jar := cookie.NewJar(rand.Reader)
	a := mustMake(t, jar, t0, source, 1, &salt)
	b := mustMake(t, jar, after(119), source, 1, &salt)
	c := mustMake(t, jar, after(120), source, 1, &salt)
	if !bytes.Equal(a, b) {
		t.Error("the secret changed before its time")
	}
	if bytes.Equal(b, c) {
		t.Error("the secret is the same after its time")
	}
}

// Shows R4.20.
func TestValidRejectsOtherCookies(t *testing.T) {
	jar := cookie.NewJar(rand.Reader)
	if jar.Valid(t0, source, 1, &salt, make([]byte, 16)) {
		t.Error("a jar that made none takes a cookie")
	}
	c := mustMake(t, jar, t0, source, 1, &salt)
	for _, other := range [][]byte{nil, {}, c[:15], append(bytes.Clone(c), 0), make([]byte, 16), bytes.Repeat([]byte{0xff}, 16)} {
		if jar.Valid(t0, source, 1, &salt, other) {
			t.Errorf("%x is accepted", other)
		}
	}
	if cookie.NewJar(rand.Reader).Valid(t0, source, 1, &salt, c) {
		t.Error("another jar takes it")
	}
	if jar.Valid(t0, netip.AddrPort{}, 1, &salt, c) {
		t.Error("accepted without a source")
	}
}

func TestMakeErrors(t *testing.T) {
	jar := cookie.NewJar(bytes.NewReader(make([]byte, 32+31)))
	if _, err := jar.Make(t0, netip.AddrPort{}, 1, &salt); !errors.Is(err, cookie.ErrSource) {
		t.Errorf("without a source: error %v", err)
	}
	c := mustMake(t, jar, t0, source, 1, &salt)
	if _, err := jar.Make(after(120), source, 1, &salt); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("with 31 bytes of randomness: error %v", err)
	}
	if !jar.Valid(after(120), source, 1, &salt, c) {
		t.Error("the last secret is gone although no new one could be drawn")
	}
}

func TestJarDoesNotAllocate(t *testing.T) {
	jar := cookie.NewJar(rand.Reader)
	c := mustMake(t, jar, t0, source, 1, &salt)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := jar.Make(t0, source, 2, &salt); err != nil {
			t.Fatal(err)
		}
		if !jar.Valid(t0, source, 1, &salt, c) {
			t.Fatal("rejected")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzJarValid(f *testing.F) {
	jar := cookie.NewJar(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	c, err := jar.Make(t0, source, 1, &salt)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c[:])
	f.Add(c[:8])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, shown []byte) {
		if jar.Valid(t0, source, 1, &salt, shown) != bytes.Equal(shown, c[:]) {
			t.Fatalf("%x: valid %v", shown, !bytes.Equal(shown, c[:]))
		}
	})
}

func BenchmarkJarValid(b *testing.B) {
	jar := cookie.NewJar(rand.Reader)
	c, err := jar.Make(t0, source, 1, &salt)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if !jar.Valid(t0, source, 1, &salt, c[:]) {
			b.Fatal("rejected")
		}
	}
}

var gateway = identity.FromSeed(&[32]byte{1}).Public()

// Shows R1.10.
func TestMAC1MatchesDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		covered := rapid.SliceOfN(rapid.Byte(), 0, 1500).Draw(t, "header and body")
		var key [32]byte
		blake3.DeriveKey("lewes/2 mac1", gateway[:], key[:])
		h, err := blake3.NewKeyed(key[:])
		if err != nil {
			t.Fatal(err)
		}
		_, _ = h.Write(covered)
		want := append(bytes.Clone(covered), h.Sum(nil)[:16]...)

		got := append(bytes.Clone(covered), bytes.Repeat([]byte{0xee}, 16)...)
		mac1 := cookie.NewMAC1Key(gateway)
		mac1.Sum(got)
		if !bytes.Equal(got, want) {
			t.Fatalf("%x, want %x", got, want)
		}
		if !mac1.Verify(got) {
			t.Fatal("own trailer rejected")
		}
	})
}

// Shows R1.11.
func TestMAC1RejectsOtherPackets(t *testing.T) {
	mac1 := cookie.NewMAC1Key(gateway)
	packet := bytes.Repeat([]byte{0x35}, 34)
	mac1.Sum(packet)
	for bit := range len(packet) * 8 {
		bad := bytes.Clone(packet)
		bad[bit/8] ^= 1 << (bit % 8)
		if mac1.Verify(bad) {
			t.Errorf("a packet with bit %d flipped is accepted", bit)
		}
	}
	for n := range packet {
		if mac1.Verify(packet[:n]) {
			t.Errorf("the first %d bytes are accepted", n)
		}
	}
	if mac1.Verify(append(bytes.Clone(packet), 0)) {
		t.Error("a packet with an extra byte is accepted")
	}
	if mac1.Verify(nil) || mac1.Verify(make([]byte, 16)) || mac1.Verify(make([]byte, 1500)) {
		t.Error("zeros are accepted")
	}
	other := cookie.NewMAC1Key(identity.FromSeed(&[32]byte{2}).Public())
	if other.Verify(packet) {
		t.Error("another gateway's packet is accepted")
	}
}

func TestMAC1DoesNotAllocate(t *testing.T) {
	mac1 := cookie.NewMAC1Key(gateway)
	packet := make([]byte, 1000)
	if n := testing.AllocsPerRun(100, func() {
		mac1.Sum(packet)
		if !mac1.Verify(packet) {
			t.Fatal("own trailer rejected")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzMAC1Verify(f *testing.F) {
	packet := make([]byte, 64)
	cookie.NewMAC1Key(gateway).Sum(packet)
	f.Add(packet)
	f.Add(packet[:16])
	f.Add([]byte{})
	mac1 := cookie.NewMAC1Key(gateway)
	f.Fuzz(func(t *testing.T, packet []byte) {
		if !mac1.Verify(packet) {
			return
		}
		again := bytes.Clone(packet)
		clear(again[len(again)-cookie.TrailerSize:])
		mac1.Sum(again)
		if !bytes.Equal(again, packet) {
			t.Fatal("two trailers for one packet")
		}
	})
}

func BenchmarkMAC1(b *testing.B) {
	mac1 := cookie.NewMAC1Key(gateway)
	for _, size := range []int{64, 512, 1000, 1200} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			packet := make([]byte, size)
			mac1.Sum(packet)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if !mac1.Verify(packet) {
					b.Fatal("rejected")
				}
			}
		})
	}
}
