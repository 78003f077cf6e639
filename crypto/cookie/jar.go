package cookie

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"lewes/crypto/kdf"
	"lewes/crypto/wipe"
)

const (
	// Size is the length of a cookie in bytes.
	Size = kdf.MACSize

	// Lifetime is how long a secret is in use. A cookie is good for as long at
	// least, and for twice as long at most.
	Lifetime = 120 * time.Second
)

// ErrSource means a source that is no address.
var ErrSource = errors.New("no source address to bind a cookie to")

// Jar makes and checks cookies. Its secrets are drawn when a cookie needs one,
// and change with the times that its callers pass. A Jar belongs to one
// goroutine; a cookie is good only in the jar that made it,
// and in one that has taken over its Secrets.
type Jar struct {
	rand  io.Reader
	start time.Time // of the present secret's lifetime; zero until the first cookie

	present, last *secret // nil where no cookie was made
}

// secret is what cookies are made with for a lifetime.
type secret struct {
	key [32]byte
	mac *kdf.MACKey
}

func newSecret(key *[32]byte) *secret { return &secret{*key, kdf.NewMACKey(key)} }

// Secrets are what a jar knows. Whoever has them can make its cookies, and wipes
// them.
type Secrets struct {
	Start         time.Time // of the present secret's lifetime; zero where there never was one
	Present, Last *[32]byte // nil where no cookie was made
}

// Secrets returns copies of the jar's secrets, for a process that goes on in this
// one's place.
func (j *Jar) Secrets() Secrets {
	s := Secrets{Start: j.start}
	for _, one := range []struct {
		from *secret
		to   **[32]byte
	}{{j.present, &s.Present}, {j.last, &s.Last}} {
		if one.from != nil {
			key := one.from.key
			*one.to = &key
		}
	}
	return s
}

// Wipe erases the secrets.
func (s *Secrets) Wipe() {
	for _, key := range []*[32]byte{s.Present, s.Last} {
		if key != nil {
			wipe.Bytes(key[:])
		}
	}
}

// Restore makes the jar take the cookies of the one whose secrets these were.
func (j *Jar) Restore(s *Secrets) {
	if s.Start.IsZero() {
		return
	}
	j.start, j.present, j.last = s.Start, nil, nil
	if s.Present != nil {
		j.present = newSecret(s.Present)
	}
	if s.Last != nil {
		j.last = newSecret(s.Last)
	}
}

// NewJar makes a jar that draws its secrets, 32 bytes each, from rand.
func NewJar(rand io.Reader) *Jar { return &Jar{rand: rand} }

// Make returns the cookie for a hello that came from source with this
// receiver_index and salt. An IPv4 address counts as the same however it is
// written. The errors are ErrSource and those of the jar's randomness.
func (j *Jar) Make(now time.Time, source netip.AddrPort, idx uint32, salt *[32]byte) ([Size]byte, error) {
	if !source.IsValid() {
		return [Size]byte{}, fmt.Errorf("cookie: %w", ErrSource)
	}
	j.turn(now)
	if j.present == nil {
		if err := j.draw(now); err != nil {
			return [Size]byte{}, err
		}
	}
	return sum(j.present.mac, source, idx, salt), nil
}

// Valid tells whether cookie is one that this jar made, under its present or
// its last secret, for a hello of this source, receiver_index and salt.
func (j *Jar) Valid(now time.Time, source netip.AddrPort, idx uint32, salt *[32]byte, cookie []byte) bool {
	if len(cookie) != Size || !source.IsValid() {
		return false
	}
	j.turn(now)
	valid := 0
	for _, secret := range []*secret{j.present, j.last} {
		if secret != nil {
			want := sum(secret.mac, source, idx, salt)
			valid |= subtle.ConstantTimeCompare(want[:], cookie)
		}
	}
	return valid == 1
}

// turn takes secrets out of use whose time is over. Lifetimes follow each
// other without a gap, so that a jar that was not asked for a while does not
// keep an old secret for longer.
func (j *Jar) turn(now time.Time) {
	passed := now.Sub(j.start) / Lifetime
	if j.start.IsZero() || passed < 1 { // a clock that went back changes nothing
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
	defer wipe.Bytes(secret[:])
	if _, err := io.ReadFull(j.rand, secret[:]); err != nil {
		return fmt.Errorf("cookie: no randomness for a secret: %w", err)
	}
	j.present = newSecret(&secret)
	if j.start.IsZero() {
		j.start = now
	}
	return nil
}

// sum returns the MAC over address, port, receiver_index and salt. Only the
// address has more than one length, so the sum's input has one reading.
func sum(secret *kdf.MACKey, source netip.AddrPort, idx uint32, salt *[32]byte) [Size]byte {
	var in [16 + 2 + 4 + 32]byte
	b := in[:0]
	if addr := source.Addr().Unmap(); addr.Is4() {
		a := addr.As4()
		b = append(b, a[:]...)
	} else {
		a := addr.As16()
		b = append(b, a[:]...)
	}
	b = binary.LittleEndian.AppendUint16(b, source.Port())
	b = binary.LittleEndian.AppendUint32(b, idx)
	b = append(b, salt[:]...)
	return secret.MAC(b)
}
