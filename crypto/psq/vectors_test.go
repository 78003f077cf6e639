package psq

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/cloudflare/circl/kem/mlkem/mlkem768"

	"lewes/crypto/identity"
	"lewes/crypto/internal/vectors"
	"lewes/crypto/kem"
)

type vectorFile struct {
	Vectors  []vector
	Negative []negativeRow
}

type vector struct {
	ID           string
	KEM          string
	ClientSeed   vectors.Hex `json:"client_ed25519_seed"`
	ClientPublic vectors.Hex `json:"client_ed25519_public"`
	KEMSeed      vectors.Hex `json:"kem_seed"`
	KEMPublic    vectors.Hex `json:"kem_public_key"`
	Randomness   vectors.Hex `json:"encaps_randomness"`
	EncTLS       vectors.Hex `json:"enc_tls"`
	SSRaw        vectors.Hex `json:"ss_raw"`
	SSTLS        vectors.Hex `json:"ss_tls"`
	SCtx         vectors.Hex
	K0PRK        vectors.Hex `json:"k0_prk"`
	MAC          vectors.Hex
	KPQ          vectors.Hex `json:"k_pq"`
	PSK          vectors.Hex `json:"psq_psk"`
	KeyI         vectors.Hex `json:"key_i"`
	IVI          vectors.Hex `json:"iv_i"`
	KeyR         vectors.Hex `json:"key_r"`
	IVR          vectors.Hex `json:"iv_r"`
	Seconds      int64       `json:"ts_seconds"`
	Millis       int64       `json:"ts_subsec_millis"`
	Prefix       vectors.Hex `json:"ts_ttl_bytes"`
	Signature    vectors.Hex
	AEADTag      vectors.Hex `json:"aead_tag"`
	InitiatorMsg vectors.Hex `json:"initiator_msg"`
	Handle       vectors.Hex `json:"psk_handle"`
	ResponderMsg vectors.Hex `json:"responder_msg"`
}

type negativeRow struct {
	Base, Mutation string
	InitiatorMsg   vectors.Hex `json:"initiator_msg"`
	SCtx           vectors.Hex
	Expected       vectors.Hex `json:"expected_client_ed25519_public"`
	PrivateKey     vectors.Hex `json:"kem_private_key_used"`
	Reference      string      `json:"libcrux_result"`
}

var kems = map[string]kem.ID{"X25519": kem.X25519, "MlKem768": kem.MLKEM768, "XWingKemDraft06": kem.XWing}

func (v *vector) id(t testing.TB) kem.ID {
	t.Helper()
	id, ok := kems[v.KEM]
	if !ok {
		t.Fatalf("unknown KEM %q", v.KEM)
	}
	return id
}

func (v *vector) time() time.Time { return time.Unix(v.Seconds, v.Millis*1e6) }

func (v *vector) keyPair(t testing.TB) *kem.KeyPair {
	t.Helper()
	kp, err := kem.FromSeed(v.id(t), v.KEMSeed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(kp.Public(), v.KEMPublic) {
		t.Fatalf("KEM public key %x, want %x", kp.Public(), v.KEMPublic)
	}
	return kp
}

func eachFile(t *testing.T, test func(*testing.T, *vectorFile)) {
	t.Helper()
	vectors.EachFile(t, "psq_v1.json", test)
}

// Shows R5.2, R5.4, R5.5.
func TestVectors(t *testing.T) {
	eachFile(t, func(t *testing.T, file *vectorFile) {
		for _, v := range file.Vectors {
			t.Run(v.ID, func(t *testing.T) { v.check(t) })
		}
	})
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s is %x, want %x", what, got, want)
	}
}

func (v *vector) check(t *testing.T) {
	id, kp := v.id(t), v.keyPair(t)
	client := identity.FromSeed((*[32]byte)(v.ClientSeed))

	// The schedule, step by step.
	ss := [kem.SecretSize]byte(v.SSRaw)
	form := kem.AppendSecretTLS(nil, id, &ss)
	equal(t, "the secret's TLS form", form, v.SSTLS)
	equal(t, "the first key", form[:32], v.K0PRK)
	s, mac := schedule(id, &ss, v.KEMPublic, v.EncTLS, v.SCtx)
	equal(t, "mac", mac[:], v.MAC)
	equal(t, "k_pq", s.KPQ[:], v.KPQ)
	equal(t, "psq_psk", s.PSK[:], v.PSK)
	equal(t, "key and nonce to the responder", expand(s.KPQ[:], toResponder, 44), append(bytes.Clone(v.KeyI), v.IVI...))
	equal(t, "key and nonce to the initiator", expand(s.KPQ[:], toInitiator, 44), append(bytes.Clone(v.KeyR), v.IVR...))

	plaintext, err := appendCredential(nil, v.time(), v.Signature, client.Public())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "time and ttl", plaintext[:signatureAt], v.Prefix)

	// Both messages, by both sides.
	msg, secrets, err := Initiate(id, v.KEMPublic, v.SCtx, client, v.time(), bytes.NewReader(v.Randomness))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the initiator's message", msg, v.InitiatorMsg)
	if *secrets != *s {
		t.Error("the initiator's secrets differ")
	}
	if n := InitiatorMsgSize(id); n != len(v.InitiatorMsg) {
		t.Errorf("InitiatorMsgSize is %d, the message has %d bytes", n, len(v.InitiatorMsg))
	}
	opened, err := Respond(kp, v.SCtx, v.InitiatorMsg)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the client's identity", opened.Client[:], v.ClientPublic)
	if !opened.Time.Equal(v.time()) {
		t.Errorf("the credential's time is %v, want %v", opened.Time, v.time())
	}
	if *opened.Secrets != *s {
		t.Error("the responder's secrets differ")
	}
	equal(t, "the responder's message", s.appendAnswer(nil, v.Handle), v.ResponderMsg)
	handle, err := s.openAnswer(v.ResponderMsg, len(v.Handle))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "handle", handle, v.Handle)

	// The reference's handle differs from LP/2's.
	if err := s.OpenResponderMsg(v.ResponderMsg); !errors.Is(err, ErrSize) {
		t.Errorf("an answer with another handle: got %v, want ErrSize", err)
	}
}

// verdict is the expected result for a negative row.
type verdict struct {
	err      error // of Respond; nil: opened
	judge    judge // differences in the result of Respond
	stricter bool  // accepted by the reference, rejected by LP/2
}

// judge lists the differences between an opened message and the base vector.
type judge struct {
	otherClient bool
	late        time.Duration
}

var verdicts = map[string]verdict{
	"none (control)":                                                          {},
	"one bit flipped in mac (first byte)":                                     {err: ErrMAC},
	"one bit flipped in mac (last byte)":                                      {err: ErrMAC},
	"one bit flipped in kem ciphertext (last byte)":                           {err: ErrMAC},
	"one bit flipped in kem ciphertext (first byte after length prefix)":      {err: ErrMAC},
	"one bit flipped in aead tag":                                             {err: ErrOpen},
	"one bit flipped in aead ciphertext (timestamp part)":                     {err: ErrOpen},
	"one bit flipped in aead ciphertext (signature part, tag not recomputed)": {err: ErrOpen},
	"one bit flipped in signature R, re-sealed with the right key":            {err: ErrSignature},
	"one bit flipped in signature S, re-sealed with the right key":            {err: ErrSignature},
	"one bit flipped in credential, re-sealed":                                {err: ErrSignature},
	"wrong sctx (one bit)":                                                    {err: ErrMAC},
	"wrong sctx (one byte appended)":                                          {err: ErrMAC},
	"responder expects another client key":                                    {judge: judge{otherClient: true}},
	"wrong kem private key":                                                   {err: ErrMAC},

	// These open; the caller rejects them because the time is out of tolerance.
	// The reference accepts the second.
	"timestamp exactly or more than ttl (3600 s) old, re-sealed": {judge: judge{late: -3600 * time.Second}},
	"timestamp 3590 s old, re-sealed":                            {judge: judge{late: -3590 * time.Second}, stricter: true},
	"timestamp 600 s in the future, re-sealed":                   {judge: judge{late: 600 * time.Second}},
	"timestamp u64::MAX seconds + u32::MAX ms, re-sealed":        {err: ErrTime},

	"ttl field in message 1 ms instead of 3600000, re-sealed (the responder's own ttl counts)": {},

	"plaintext of 27 bytes, sealed with the right key":                {err: ErrSize},
	"plaintext of 28 bytes (no signature), sealed with the right key": {err: ErrSize},
	"plaintext without last credential byte, sealed":                  {err: ErrSize},
	"plaintext with one extra byte, sealed":                           {err: ErrSize, stricter: true},
	"empty plaintext, sealed":                                         {err: ErrSize},
	"message truncated by one byte":                                   {err: ErrSize},
	"message with one trailing byte":                                  {err: ErrSize, stricter: true},
	"empty message":                                                   {err: kem.ErrTLSForm},
	"kem discriminant 7 (unknown)":                                    {err: kem.ErrTLSForm},
	"kem discriminant 255 (unknown)":                                  {err: kem.ErrTLSForm},
	"ciphertext of another KEM (well formed enum)":                    {err: kem.ErrTLSForm},
	"length of the aead ciphertext in four-byte form (not minimal)":   {err: ErrSize, stricter: true},
	"length one too large":                                            {err: ErrSize},
	"low-order kem ciphertext (zero)":                                 {err: kem.ErrCiphertext},
	"low-order kem ciphertext (one)":                                  {err: kem.ErrCiphertext},
	"top bit of the X25519 ciphertext flipped":                        {err: kem.ErrCiphertext},
	"ML-KEM ciphertext with length 1087":                              {err: kem.ErrTLSForm},
}

// Shows R5.3, R5.6, R5.7.
func TestNegativeVectors(t *testing.T) {
	eachFile(t, func(t *testing.T, file *vectorFile) {
		bases := map[string]*vector{}
		for n := range file.Vectors {
			bases[file.Vectors[n].ID] = &file.Vectors[n]
		}
		for _, row := range file.Negative {
			t.Run(row.Base+"/"+row.Mutation, func(t *testing.T) {
				base := bases[row.Base]
				if base == nil {
					t.Fatalf("no vector %s", row.Base)
				}
				want, ok := verdicts[row.Mutation]
				if !ok {
					t.Fatal("no verdict")
				}
				row.check(t, base, want)
			})
		}
	})
}

func (row *negativeRow) check(t *testing.T, base *vector, want verdict) {
	opened, err := row.respond(t, base)
	if want.err != nil {
		if !errors.Is(err, want.err) || opened != nil {
			t.Errorf("got %v, %v; want %v", opened, err, want.err)
		}
	} else if err != nil {
		t.Errorf("got %v", err)
	} else {
		if other := !bytes.Equal(opened.Client[:], row.Expected); other != want.judge.otherClient {
			t.Errorf("the client is %v, expected was %x", opened.Client, row.Expected)
		}
		// The rows were generated a second or two after their base.
		if late := opened.Time.Sub(base.time()); (late - want.judge.late).Abs() > 10*time.Second {
			t.Errorf("the time is %v off, want %v", late, want.judge.late)
		}
	}
	refused := want.err != nil || want.judge.otherClient || want.judge.late.Abs() > 30*time.Second
	if accepted := row.Reference == "accepted"; accepted != (!refused || want.stricter) {
		t.Errorf("the reference returned %q, the table disagrees", row.Reference)
	}
}

// respond calls Respond with the row's key. Package kem makes key pairs from
// seeds only, so another expanded ML-KEM key is used through circl.
func (row *negativeRow) respond(t *testing.T, base *vector) (*Opened, error) {
	t.Helper()
	id := base.id(t)
	if row.Mutation != "wrong kem private key" {
		return Respond(base.keyPair(t), row.SCtx, row.InitiatorMsg)
	}
	if id != kem.MLKEM768 {
		other, err := kem.FromSeed(id, row.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		return Respond(other, row.SCtx, row.InitiatorMsg)
	}
	m, err := parseInitiatorMsg(id, row.InitiatorMsg)
	if err != nil {
		t.Fatal(err)
	}
	other, err := mlkem768.Scheme().UnmarshalBinaryPrivateKey(row.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	ss, err := mlkem768.Scheme().Decapsulate(other, m.ciphertext)
	if err != nil {
		t.Fatal(err)
	}
	return m.open(id, base.KEMPublic, (*[32]byte)(ss), row.SCtx)
}
