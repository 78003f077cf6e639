package psq

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
)

var (
	supported  = []kem.ID{kem.MLKEM768, kem.XWing, kem.X25519}
	testClient = identity.FromSeed(&[32]byte{7})
	testSCtx   = []byte("a transcript")
	testNow    = time.Date(2026, 5, 4, 3, 2, 1, 987_654_321, time.UTC)
)

// random returns the deterministic stream number n.
func random(n byte) io.Reader { return rand.NewChaCha8([32]byte{n}) }

type exchange struct {
	kp      *kem.KeyPair
	msg     []byte
	secrets *Secrets
}

func newExchange(t testing.TB, id kem.ID) exchange {
	t.Helper()
	kp, err := kem.Generate(id, random(1))
	if err != nil {
		t.Fatal(err)
	}
	msg, s, err := Initiate(id, kp.Public(), testSCtx, testClient, testNow, random(2))
	if err != nil {
		t.Fatal(err)
	}
	return exchange{kp, msg, s}
}

func eachKEM(t *testing.T, test func(*testing.T, kem.ID)) {
	for _, id := range supported {
		t.Run(id.String(), func(t *testing.T) { test(t, id) })
	}
}

func TestExchange(t *testing.T) {
	eachKEM(t, func(t *testing.T, id kem.ID) {
		kp, err := kem.Generate(id, random(1))
		if err != nil {
			t.Fatal(err)
		}
		rapid.Check(t, func(t *rapid.T) {
			sctx := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "sctx")
			millis := rapid.Int64Range(0, maxSeconds*1000+999).Draw(t, "time")
			client := identity.FromSeed(&[32]byte{rapid.Byte().Draw(t, "client")})
			now := time.UnixMilli(millis)
			below := rapid.Int64Range(0, 999_999).Draw(t, "nanoseconds")
			msg, mine, err := Initiate(id, kp.Public(), sctx, client, now.Add(time.Duration(below)), random(rapid.Byte().Draw(t, "randomness")))
			if err != nil {
				t.Fatal(err)
			}
			opened, err := Respond(kp, sctx, msg)
			if err != nil {
				t.Fatal(err)
			}
			if opened.Client != client.Public() || !opened.Time.Equal(now) {
				t.Fatalf("opened %v, %v", opened.Client, opened.Time)
			}
			if *opened.Secrets != *mine || mine.KPQ == mine.PSK || mine.PSK == [32]byte{} {
				t.Fatal("the two sides have different secrets, or one for two uses")
			}
			answer := opened.Secrets.AppendResponderMsg([]byte("before"))[len("before"):]
			if len(answer) != ResponderMsgSize {
				t.Fatalf("the answer has %d bytes", len(answer))
			}
			if err := mine.OpenResponderMsg(answer); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// Shows R5.9.
func TestSessionsHaveDifferentSecrets(t *testing.T) {
	kp, err := kem.Generate(kem.MLKEM768, random(1))
	if err != nil {
		t.Fatal(err)
	}
	_, one, err := Initiate(kem.MLKEM768, kp.Public(), testSCtx, testClient, testNow, random(2))
	if err != nil {
		t.Fatal(err)
	}
	_, two, err := Initiate(kem.MLKEM768, kp.Public(), testSCtx, testClient, testNow, random(3))
	if err != nil {
		t.Fatal(err)
	}
	if one.Handle() == two.Handle() || one.PSK == two.PSK || one.KPQ == two.KPQ {
		t.Error("two exchanges share secrets")
	}
	if err := one.OpenResponderMsg(two.AppendResponderMsg(nil)); !errors.Is(err, ErrOpen) {
		t.Errorf("another session's answer: got %v, want ErrOpen", err)
	}
	if err := one.OpenResponderMsg(one.appendAnswer(nil, make([]byte, HandleSize))); !errors.Is(err, ErrHandle) {
		t.Errorf("another handle: got %v, want ErrHandle", err)
	}
}

// Shows R5.6, R5.7.
func TestRespondRejectsAnyChange(t *testing.T) {
	eachKEM(t, func(t *testing.T, id kem.ID) {
		x := newExchange(t, id)
		for n := range x.msg {
			bad := bytes.Clone(x.msg)
			bad[n] ^= 1 << (n % 8)
			if o, err := Respond(x.kp, testSCtx, bad); err == nil || o != nil {
				t.Fatalf("byte %d changed: got %v, %v", n, o, err)
			}
			if o, err := Respond(x.kp, testSCtx, x.msg[:n]); !errors.Is(err, ErrSize) && !errors.Is(err, kem.ErrTLSForm) || o != nil {
				t.Fatalf("%d bytes: got %v, %v", n, o, err)
			}
		}
		for _, n := range []int{1, 2, 100, 70000} {
			if _, err := Respond(x.kp, testSCtx, append(bytes.Clone(x.msg), make([]byte, n)...)); !errors.Is(err, ErrSize) {
				t.Errorf("%d bytes behind it: got %v, want ErrSize", n, err)
			}
		}
		if _, err := Respond(x.kp, testSCtx, x.msg); err != nil {
			t.Error(err)
		}
	})
}

// Shows R5.3, R5.6.
func TestRespondRejectsOtherKeyOrTranscript(t *testing.T) {
	eachKEM(t, func(t *testing.T, id kem.ID) {
		x := newExchange(t, id)
		other, err := kem.Generate(id, random(9))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Respond(other, testSCtx, x.msg); !errors.Is(err, ErrMAC) {
			t.Errorf("another key: got %v, want ErrMAC", err)
		}
		for _, sctx := range [][]byte{nil, testSCtx[1:], append(bytes.Clone(testSCtx), 0)} {
			if _, err := Respond(x.kp, sctx, x.msg); !errors.Is(err, ErrMAC) {
				t.Errorf("transcript %q: got %v, want ErrMAC", sctx, err)
			}
		}
		for _, o := range supported {
			if o != id {
				y := newExchange(t, o)
				if _, err := Respond(x.kp, testSCtx, y.msg); !errors.Is(err, kem.ErrTLSForm) {
					t.Errorf("a message for %v: got %v, want kem.ErrTLSForm", o, err)
				}
			}
		}
		x.kp.Wipe()
		if _, err := Respond(x.kp, testSCtx, x.msg); !errors.Is(err, kem.ErrWiped) {
			t.Errorf("a wiped key: got %v, want kem.ErrWiped", err)
		}
	})
}

// A malicious client knows the secret, so that mac and seal are valid, and chooses
// the rest.
//
// Shows R5.3, R5.6, R5.7, R5.8.
func TestRespondToMaliciousClient(t *testing.T) {
	x := newExchange(t, kem.X25519)
	m, err := parseInitiatorMsg(kem.X25519, x.msg)
	if err != nil {
		t.Fatal(err)
	}
	seal := x.secrets.sealer(toResponder)
	good, err := seal.open(m.sealed, credentialSize)
	if err != nil {
		t.Fatal(err)
	}
	with := func(plaintext []byte) error {
		o, err := Respond(x.kp, testSCtx, seal.append(bytes.Clone(m.signed), plaintext))
		if (o == nil) != (err != nil) {
			t.Errorf("got %v and %v", o, err)
		}
		return err
	}
	changed := func(at int, to ...byte) []byte {
		p := bytes.Clone(good)
		copy(p[at:], to)
		return p
	}

	if err := with(good); err != nil {
		t.Fatal(err)
	}
	if err := with(changed(ttlAt, bytes.Repeat([]byte{0xff}, 16)...)); err != nil {
		t.Errorf("an absurd ttl, which is ignored: %v", err)
	}
	for n := range 400 {
		if n != credentialSize {
			if err := with(make([]byte, n)); !errors.Is(err, ErrSize) {
				t.Errorf("a plaintext of %d bytes: got %v, want ErrSize", n, err)
			}
		}
	}
	for name, c := range map[string]struct {
		plaintext []byte
		want      error
	}{
		"the year 10000":          {changed(secondsAt, 0, 0, 0, 0x3a, 0xff, 0xf4, 0x41, 0x80), ErrTime},
		"no such second":          {changed(secondsAt, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), ErrTime},
		"a negative second":       {changed(secondsAt, 0x80), ErrTime},
		"a thousand milliseconds": {changed(millisAt, 0, 0, 3, 0xe8), ErrTime},
		"another client":          {changed(identityAt, make([]byte, 31)...), ErrSignature},
		"the neutral point, which verifies much": {changed(signatureAt, append(
			append([]byte{1}, make([]byte, 63)...), append([]byte{1}, make([]byte, 31)...)...)...), ErrSignature},
		"a signature of zeros": {changed(signatureAt, make([]byte, 64)...), ErrSignature},
	} {
		if err := with(c.plaintext); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}

	// The same length in a longer encoding.
	long := bytes.Clone(x.msg[:len(x.msg)-credentialSize-2])
	long = append(long, 0x80, 0, 0, credentialSize)
	long = append(long, x.msg[len(x.msg)-credentialSize:]...)
	if _, err := Respond(x.kp, testSCtx, long); !errors.Is(err, ErrSize) {
		t.Errorf("a length in four bytes: got %v, want ErrSize", err)
	}
}

// Shows R5.3.
func TestRespondRejectsLongerLengthField(t *testing.T) {
	for _, id := range []kem.ID{kem.MLKEM768, kem.XWing} {
		x := newExchange(t, id)
		long := append([]byte{x.msg[0], 0x80, 0, 0x04, 0x40}, x.msg[3:]...)
		if _, err := Respond(x.kp, testSCtx, long); !errors.Is(err, kem.ErrTLSForm) {
			t.Errorf("%v: got %v, want kem.ErrTLSForm", id, err)
		}
	}
}

// Shows R5.7, R5.9.
func TestOpenResponderMsgRejectsAnyChange(t *testing.T) {
	s := newExchange(t, kem.X25519).secrets
	answer := s.AppendResponderMsg(nil)
	for n := range answer {
		for bit := range 8 {
			bad := bytes.Clone(answer)
			bad[n] ^= 1 << bit
			if err := s.OpenResponderMsg(bad); err == nil {
				t.Fatalf("bit %d of byte %d changed and nobody saw it", bit, n)
			}
		}
		if err := s.OpenResponderMsg(answer[:n]); !errors.Is(err, ErrSize) {
			t.Fatalf("%d bytes: got %v, want ErrSize", n, err)
		}
	}
	if err := s.OpenResponderMsg(append(bytes.Clone(answer), 0)); !errors.Is(err, ErrSize) {
		t.Errorf("a byte behind it: got %v, want ErrSize", err)
	}
	if again := s.AppendResponderMsg(nil); !bytes.Equal(again, answer) {
		t.Error("the answer is not the same each time")
	}
	if err := s.OpenResponderMsg(answer); err != nil {
		t.Error(err)
	}
}

func TestInitiateErrors(t *testing.T) {
	kp, err := kem.Generate(kem.MLKEM768, random(1))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		id   kem.ID
		pk   []byte
		now  time.Time
		rand io.Reader
		want error
	}{
		"a clock before 1970":      {kem.MLKEM768, kp.Public(), time.Unix(-1, 0), random(2), ErrTime},
		"a clock after 9999":       {kem.MLKEM768, kp.Public(), time.Unix(maxSeconds+1, 0), random(2), ErrTime},
		"a key too short":          {kem.MLKEM768, kp.Public()[1:], testNow, random(2), kem.ErrPublicKey},
		"a key that is no key":     {kem.MLKEM768, bytes.Repeat([]byte{0xff}, 1184), testNow, random(2), kem.ErrPublicKey},
		"a key of low order":       {kem.X25519, make([]byte, 32), testNow, random(2), kem.ErrPublicKey},
		"Classic McEliece":         {kem.McEliece, kp.Public(), testNow, random(2), kem.ErrUnsupported},
		"randomness that runs dry": {kem.MLKEM768, kp.Public(), testNow, strings.NewReader("short"), io.ErrUnexpectedEOF},
	} {
		msg, s, err := Initiate(c.id, c.pk, testSCtx, testClient, c.now, c.rand)
		if !errors.Is(err, c.want) || msg != nil || s != nil {
			t.Errorf("%s: got %x, %v, %v; want %v", name, msg, s, err, c.want)
		}
	}
	if n := InitiatorMsgSize(kem.McEliece); n != 0 {
		t.Errorf("InitiatorMsgSize of Classic McEliece is %d", n)
	}
}

func TestRespondCopiesMessage(t *testing.T) {
	x := newExchange(t, kem.X25519)
	before := bytes.Clone(x.msg)
	o, err := Respond(x.kp, testSCtx, x.msg)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, x.msg) {
		t.Error("the message was changed")
	}
	clear(x.msg)
	if o.Client != testClient.Public() || *o.Secrets != *x.secrets {
		t.Error("what was opened changed with the message")
	}
}

func TestWipeZeroesSecrets(t *testing.T) {
	s := newExchange(t, kem.X25519).secrets
	seal := s.sealer(toResponder)
	seal.wipe()
	zero := new(Secrets).sealer(toResponder)
	zero.wipe()
	if a, b := seal.append(nil, testSCtx), zero.append(nil, testSCtx); !bytes.Equal(a, b) {
		t.Error("a wiped sealer still has its key")
	}
	s.Wipe()
	if *s != (Secrets{}) {
		t.Error("secrets are left after the wipe")
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	s := Secrets{KPQ: [32]byte(bytes.Repeat([]byte{0xab}, 32)), PSK: [32]byte(bytes.Repeat([]byte{0xab}, 32))}
	for _, v := range []any{s, &s, []Secrets{s}, Opened{Secrets: &s}, struct{ S Secrets }{s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			out := fmt.Sprintf(verb, v)
			for _, leak := range []string{"abab", "171 171", "0xab, 0xab"} {
				if strings.Contains(out, leak) {
					t.Errorf("%s of %T prints the secret: %s", verb, v, out)
				}
			}
		}
	}
}
