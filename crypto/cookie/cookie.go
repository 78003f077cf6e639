// Package cookie holds the two checks a gateway makes before it spends anything
// on an unknown sender.
//
// MAC1 is the trailer of every clear packet (section 1 of PROTOCOL.md). Its key is public: it
// filters out scanners and damaged packets at the cost of one hash, and proves nothing.
//
//	mac1 := cookie.NewMAC1Key(gateway)
//	mac1.Sum(packet)
//	if !mac1.Verify(packet) { return }
//
// A cookie proves that the sender receives packets at its source address
// (section 4). The gateway stores nothing for it but two secrets.
//
//	jar := cookie.NewJar(rand.Reader)
//	c, err := jar.Make(now, source, idx, &salt)
//	if jar.Valid(now, source, idx, &salt, c[:]) { ... }
package cookie

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
)

// TrailerSize is the length in bytes of the MAC1 at the end of a clear packet.
const TrailerSize = kdf.MACSize

// MAC1Key computes and checks the trailers of the clear packets to and from one
// gateway. It is safe for concurrent use.
type MAC1Key struct{ key *kdf.MACKey }

// NewMAC1Key returns the key for a gateway. Both ends use the gateway's.
func NewMAC1Key(gateway identity.PublicKey) *MAC1Key {
	key := kdf.DeriveKey("lewes/2 mac1", gateway[:])
	return &MAC1Key{kdf.NewMACKey(&key)}
}

// Sum writes the trailer over header and body into the last 16 bytes of packet.
func (k *MAC1Key) Sum(packet []byte) {
	n := len(packet) - TrailerSize
	mac := k.key.MAC(packet[:n])
	copy(packet[n:], mac[:])
}

// Verify reports whether packet ends in the trailer that Sum would write. It does not allocate.
func (k *MAC1Key) Verify(packet []byte) bool {
	n := len(packet) - TrailerSize
	if n < 0 {
		return false
	}
	mac := k.key.MAC(packet[:n])
	return subtle.ConstantTimeCompare(mac[:], packet[n:]) == 1
}

const (
	// Size is the length of a cookie in bytes.
	Size = kdf.MACSize

	// Lifetime is how long a secret is used for new cookies. A cookie is valid
	// for one to two lifetimes.
	Lifetime = 120 * time.Second
)

// ErrSource means that a source is not a valid address.
var ErrSource = errors.New("no source address to bind a cookie to")

// Jar makes and checks cookies. It draws its secrets on demand and rotates them by the times that
// its callers pass. A Jar is not safe for concurrent use. A cookie is valid only in the jar that
// made it and in a jar restored from its Secrets.
type Jar struct {
	rand  io.Reader
	start time.Time // of the present secret's lifetime; zero until the first cookie

	present, last *secret // nil if no cookie was made in that lifetime
}

// secret is the key for the cookies of one lifetime.
type secret struct {
	key [32]byte
	mac *kdf.MACKey
}

func newSecret(key *[32]byte) *secret {
	if key == nil {
		return nil
	}
	return &secret{*key, kdf.NewMACKey(key)}
}

// copyKey returns a copy of the key, nil for a nil secret.
func (s *secret) copyKey() *[32]byte {
	if s == nil {
		return nil
	}
	key := s.key
	return &key
}

// Secrets are the contents of a jar. They suffice to make its cookies; the owner wipes them.
type Secrets struct {
	Start         time.Time // of the present secret's lifetime; zero if there was none
	Present, Last *[32]byte // nil if no cookie was made in that lifetime
}

// Wipe erases the secrets.
func (s *Secrets) Wipe() {
	for _, key := range []*[32]byte{s.Present, s.Last} {
		if key != nil {
			clear(key[:])
		}
	}
}

// Secrets returns copies of the jar's secrets, for a snapshot.
func (j *Jar) Secrets() Secrets {
	return Secrets{Start: j.start, Present: j.present.copyKey(), Last: j.last.copyKey()}
}

// Restore makes the jar accept the cookies of the jar that these secrets are from.
func (j *Jar) Restore(s *Secrets) {
	if !s.Start.IsZero() {
		j.start, j.present, j.last = s.Start, newSecret(s.Present), newSecret(s.Last)
	}
}

// NewJar returns a jar that draws its secrets, 32 bytes each, from rand.
func NewJar(rand io.Reader) *Jar { return &Jar{rand: rand} }

// Make returns the cookie for a hello from source with this attempt index and salt. An IPv4-mapped
// address equals the IPv4 address. The errors are ErrSource and those of the random source.
func (j *Jar) Make(now time.Time, source netip.AddrPort, idx uint32, salt *[32]byte) ([Size]byte, error) {
	if !source.IsValid() {
		return [Size]byte{}, fmt.Errorf("cookie: %w", ErrSource)
	}
	j.rotate(now)
	if j.present == nil {
		if err := j.draw(now); err != nil {
			return [Size]byte{}, err
		}
	}
	return sum(j.present.mac, source, idx, salt), nil
}

// Valid reports whether this jar made cookie, with its present or last secret,
// for a hello with this source, attempt index and salt.
func (j *Jar) Valid(now time.Time, source netip.AddrPort, idx uint32, salt *[32]byte, cookie []byte) bool {
	if len(cookie) != Size || !source.IsValid() {
		return false
	}
	j.rotate(now)
	valid := 0
	for _, secret := range []*secret{j.present, j.last} {
		if secret != nil {
			want := sum(secret.mac, source, idx, salt)
			valid |= subtle.ConstantTimeCompare(want[:], cookie)
		}
	}
	return valid == 1
}

// rotate drops expired secrets. Lifetimes follow each other without a gap, so an
// unused jar does not keep an old secret for longer.
func (j *Jar) rotate(now time.Time) {
	passed := now.Sub(j.start) / Lifetime
	if j.start.IsZero() || passed < 1 { // a clock set back changes nothing
		return
	}
	j.last = nil
	if passed == 1 {
		j.last = j.present
	}
	j.present = nil
	j.start = j.start.Add(passed * Lifetime)
}

func (j *Jar) draw(now time.Time) error {
	var secret [32]byte
	defer clear(secret[:])
	if _, err := io.ReadFull(j.rand, secret[:]); err != nil {
		return fmt.Errorf("cookie: no randomness for a secret: %w", err)
	}
	j.present = newSecret(&secret)
	if j.start.IsZero() {
		j.start = now
	}
	return nil
}

// sum returns the MAC over address, port, attempt index and salt. Only the
// address varies in length, so the input is unambiguous.
func sum(secret *kdf.MACKey, source netip.AddrPort, idx uint32, salt *[32]byte) [Size]byte {
	var in [16 + 2 + 4 + 32]byte
	b := in[:0]
	b, _ = source.Addr().Unmap().WithZone("").AppendBinary(b)
	b = binary.LittleEndian.AppendUint16(b, source.Port())
	b = binary.LittleEndian.AppendUint32(b, idx)
	b = append(b, salt[:]...)
	return secret.MAC(b)
}
