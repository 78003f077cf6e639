package kkt

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha3"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/zeebo/blake3"

	"lewes/crypto/identity"
	"lewes/crypto/internal/vectors"
	"lewes/crypto/kem"
)

type vectorFile struct {
	Vectors   []vector
	Contexts  []contextRow
	KeyHashes []map[string]vectors.Hex `json:"key_hashes"`
	SHA256    map[string]vectors.Hex   `json:"sha256_other_lengths"`
	Negative  []negativeRow
}

// suiteRow is the context of a vector, by names.
type suiteRow struct {
	KEM          string
	HashFunction string `json:"hash_function"`
	HashLength   uint8  `json:"hash_len"`
	Mode         string
}

type vector struct {
	suiteRow
	ID            string
	RequestRole   string      `json:"request_role"`
	SessionID     vectors.Hex `json:"session_id"`
	InitiatorSeed vectors.Hex `json:"initiator_ed25519_seed"`
	ResponderSeed vectors.Hex `json:"responder_ed25519_seed"`
	KEMSeed       vectors.Hex `json:"responder_kem_seed"`
	KEMPublic     vectors.Hex `json:"responder_kem_public"`
	KEMHash       vectors.Hex `json:"responder_kem_public_sha256"`
	KEMLength     int         `json:"responder_kem_public_len"`
	KeyHash       vectors.Hex `json:"responder_kem_key_hash"`
	Request       struct{ Context, Body, Frame vectors.Hex }
	Response      struct {
		Context, Frame vectors.Hex
		FrameSHA256    vectors.Hex `json:"frame_sha256"`
	}
}

type contextRow struct {
	suiteRow
	Role            string
	Status          string
	Bytes           vectors.Hex
	FullLength      int         `json:"full_message_len"`
	ResponderHeader vectors.Hex `json:"responder_header"`
	Error           *struct{ Name string }
}

type negativeRow struct {
	Direction, Case string
	Frame           vectors.Hex
	RequestFrame    vectors.Hex `json:"request_frame"`
	InitiatorKey    vectors.Hex `json:"initiator_key"`
	ResponderKey    vectors.Hex `json:"responder_key"`
	ExpectedHash    vectors.Hex `json:"expected_hash"`
	Result          struct{ Stage string }
}

var (
	kems     = map[string]kem.ID{"XWing": kem.XWing, "MlKem768": kem.MLKEM768, "McEliece": kem.McEliece, "X25519": kem.X25519}
	hashes   = map[string]uint8{"Blake3": hashBLAKE3, "SHAKE256": hashSHAKE256, "SHAKE128": hashSHAKE128, "SHA256": hashSHA3}
	roles    = map[string]role{"Initiator": initiator, "Responder": responder, "AnonymousInitiator": anonymous}
	modes    = map[string]mode{"OneWay": oneWay, "Mutual": mutual}
	statuses = map[string]Status{
		"": StatusOK, "Ok": StatusOK, "InvalidRequestFormat": StatusBadRequest, "InvalidResponseFormat": StatusBadResponse,
		"InvalidSignature": StatusBadSignature, "UnsupportedCiphersuite": StatusUnsupportedSuite,
		"UnsupportedKKTVersion": StatusUnsupportedVersion, "InvalidKey": StatusInvalidKey, "Timeout": StatusTimeout,
	}
)

// named looks up a name of the vectors.
func named[T any](t *testing.T, table map[string]T, name string) T {
	t.Helper()
	v, ok := table[name]
	if !ok {
		t.Fatalf("%q is not one of %v", name, slices.Sorted(maps.Keys(table)))
	}
	return v
}

func (s *suiteRow) context(t *testing.T, role string) context {
	t.Helper()
	return context{
		role: named(t, roles, role), mode: named(t, modes, s.Mode),
		kem: named(t, kems, s.KEM), hash: named(t, hashes, s.HashFunction), hashLength: s.HashLength,
	}
}

func eachFile(t *testing.T, test func(*testing.T, *vectorFile)) {
	t.Helper()
	vectors.EachFile(t, "kkt.json", test)
}

// Shows R4.23, R4.25.
func TestVectors(t *testing.T) {
	eachFile(t, func(t *testing.T, file *vectorFile) {
		if len(file.Vectors) == 0 {
			t.Fatal("no vectors")
		}
		for _, v := range file.Vectors {
			t.Run(v.ID, func(t *testing.T) { v.check(t) })
		}
	})
}

func (v *vector) check(t *testing.T) {
	c := v.context(t, v.RequestRole)
	session := SessionID(v.SessionID)
	client := identity.FromSeed((*[32]byte)(v.InitiatorSeed))
	gateway := identity.FromSeed((*[32]byte)(v.ResponderSeed))
	pk := v.publicKey(t)

	if hash := keyHash(c.hash, int(c.hashLength), pk); !bytes.Equal(hash, v.KeyHash) {
		t.Errorf("key hash %x, want %x", hash, v.KeyHash)
	}

	// The frames, both ways.
	signer := client
	if c.role == anonymous {
		signer = nil
	}
	request := appendFrame(nil, c, v.Request.Body, session, signer)
	if !bytes.Equal(request, v.Request.Frame) {
		t.Errorf("request %x, want %x", request, v.Request.Frame)
	}
	f, err := parseFrame(v.Request.Frame)
	if err != nil {
		t.Fatalf("request: %v", err)
	}
	if f.context != c || f.session != session || !bytes.Equal(f.body, v.Request.Body) {
		t.Errorf("request read as %+v", f)
	}
	if signer != nil {
		if err := f.verify(client.Public()); err != nil {
			t.Errorf("request: %v", err)
		}
	}
	response := appendFrame(nil, c.answer(), pk, session, gateway)
	if v.Response.Frame == nil {
		if sum := sha256.Sum256(response); !bytes.Equal(sum[:], v.Response.FrameSHA256) {
			t.Errorf("SHA-256 of the response %x, want %x", sum, v.Response.FrameSHA256)
		}
	} else if !bytes.Equal(response, v.Response.Frame) {
		t.Errorf("response %x, want %x", response, v.Response.Frame)
	}

	// LP/2 accepts its own kind of frame and rejects all others.
	id, got, err := ParseRequest(v.Request.Frame)
	switch {
	case c.role != anonymous:
		wantError(t, "a signed request", err, ErrContext)
	case c.hash != hashBLAKE3 || c.hashLength != 32:
		wantError(t, "a request for another hash", err, ErrSuite)
	case c.kem == kem.McEliece:
		wantError(t, "a request for Classic McEliece", err, kem.ErrUnsupported)
	case err != nil || id != c.kem || got != session:
		t.Errorf("request read as %v, %x, %v", id, got, err)
	default:
		if own := AppendRequest(nil, c.kem, session); !bytes.Equal(own, v.Request.Frame) {
			t.Errorf("AppendRequest gave %x", own)
		}
	}
	key, err := VerifyResponse(response, c.kem, session, gateway.Public())
	switch {
	case c.kem == kem.McEliece:
		wantError(t, "a Classic McEliece key", err, kem.ErrUnsupported)
	case c.mode != oneWay:
		wantError(t, "a response to a mutual request", err, ErrContext)
	case c.hash != hashBLAKE3 || c.hashLength != 32:
		wantError(t, "a response with another hash", err, ErrSuite)
	case err != nil || !bytes.Equal(key, pk):
		t.Errorf("response gave %x, %v", key, err)
	default:
		if own := AppendResponse(nil, c.kem, pk, session, gateway); !bytes.Equal(own, v.Response.Frame) || len(own) != responseSize(c.kem) {
			t.Errorf("AppendResponse gave %x", own)
		}
		if err := VerifyPin(key, v.KeyHash); err != nil {
			t.Error(err)
		}
	}
}

// publicKey returns the responder's KEM key. For Classic McEliece the vectors
// describe how to derive placeholder bytes.
func (v *vector) publicKey(t *testing.T) []byte {
	t.Helper()
	if v.KEM != "McEliece" {
		return v.KEMPublic
	}
	h := blake3.NewDeriveKey("mceliece-placeholder-public-key")
	_, _ = h.Write(v.KEMSeed)
	pk := make([]byte, v.KEMLength)
	_, _ = h.Digest().Read(pk)
	if sum := sha256.Sum256(pk); !bytes.Equal(sum[:], v.KEMHash) {
		t.Fatalf("placeholder key has SHA-256 %x, want %x", sum, v.KEMHash)
	}
	return pk
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func TestContextVectors(t *testing.T) {
	eachFile(t, func(t *testing.T, file *vectorFile) {
		if len(file.Contexts) == 0 {
			t.Fatal("no contexts")
		}
		for n, row := range file.Contexts {
			row.check(t, n)
		}
	})
}

func (row *contextRow) check(t *testing.T, n int) {
	c := row.context(t, row.Role)
	c.status = named(t, statuses, row.Status)
	if row.Error != nil {
		c.hashLength = 32
		_, err := parseContext(c.append(nil))
		wantError(t, "a context that the reference cannot make", err, ErrContext)
		return
	}
	if b := c.append(nil); !bytes.Equal(b, row.Bytes) {
		t.Errorf("context %d is %x, want %x", n, b, row.Bytes)
	}
	got, err := parseContext(row.Bytes)
	if err != nil || got != c {
		t.Errorf("context %d read as %+v, %v; want %+v", n, got, err, c)
	}
	if row.ResponderHeader != nil {
		if b := c.answer().append(nil); !bytes.Equal(b, row.ResponderHeader) {
			t.Errorf("context %d is answered by %x, want %x", n, b, row.ResponderHeader)
		}
	}
	body, err := c.bodySize()
	if c.kem == kem.McEliece && row.FullLength > contextSize+sessionSize+signatureSize {
		wantError(t, "a frame with a Classic McEliece key", err, kem.ErrUnsupported)
		return
	}
	if full := contextSize + body + sessionSize + c.signatureSize(); err != nil || full != row.FullLength {
		t.Errorf("context %d makes a frame of %d bytes, %v; want %d", n, full, err, row.FullLength)
	}
}

// keyHash returns the hash of a raw KEM public key. LP/2 computes only BLAKE3 of
// 32 bytes, in VerifyPin; the others confirm the numbers of the hash functions.
func keyHash(h uint8, length int, pk []byte) []byte {
	switch h {
	case hashSHAKE256:
		return sha3.SumSHAKE256(pk, length)
	case hashSHAKE128:
		return sha3.SumSHAKE128(pk, length)
	case hashSHA3:
		sum := sha3.Sum256(pk)
		return sum[:length]
	}
	out := make([]byte, length)
	x := blake3.New()
	_, _ = x.Write(pk)
	_, _ = x.Digest().Read(out)
	return out
}

func TestKeyHashVectors(t *testing.T) {
	eachFile(t, func(t *testing.T, file *vectorFile) {
		checked := 0
		check := func(h uint8, pk []byte, want []byte) {
			t.Helper()
			checked++
			if h == hashSHA3 {
				// The reference squeezes more than 32 bytes out of SHA3-256, which
				// no context of LP/2 uses.
				want = want[:min(len(want), 32)]
			}
			if got := keyHash(h, len(want), pk); !bytes.Equal(got, want) {
				t.Errorf("%v of %d bytes of %x: got %x, want %x", h, len(want), pk, got, want)
			}
		}
		for _, row := range file.KeyHashes {
			pk := row["key_bytes"]
			for name, want := range row {
				for h, id := range hashes {
					if _, ok := bytes.CutPrefix([]byte(name), []byte(h+"_")); ok {
						check(id, pk, want)
					}
				}
			}
		}
		for _, want := range file.SHA256 {
			check(hashSHA3, []byte("abc"), want)
		}
		if want := 10*len(file.KeyHashes) + 4; checked != want || len(file.KeyHashes) == 0 {
			t.Errorf("%d hashes checked, want %d", checked, want)
		}
	})
}

// verdict is the expected result for a negative row.
type verdict struct {
	err      error // from this package; nil: accepted
	frame    error // requests only: for the frame and its signature alone, as in KKT
	stricter bool  // accepted by the reference, rejected by LP/2
}

// LP/2 has anonymous requests only, so every signed request is rejected for its
// role.
var requestVerdicts = map[string]verdict{
	"good one way request (control)":             {ErrContext, nil, true},
	"good anonymous request (control)":           {nil, nil, false},
	"empty":                                      {ErrSize, ErrSize, false},
	"short: 6 bytes":                             {ErrSize, ErrSize, false},
	"short: only the 7-byte context":             {ErrContext, ErrSize, false},
	"short: one byte missing":                    {ErrContext, ErrSize, false},
	"long: one byte too many":                    {ErrContext, ErrSize, false},
	"version nibble 0, re-signed":                {ErrVersion, ErrVersion, true},
	"version nibble 2, re-signed":                {ErrVersion, ErrVersion, false},
	"version nibble 15, re-signed":               {ErrVersion, ErrVersion, false},
	"message sequence 1, re-signed":              {ErrContext, nil, true},
	"message sequence 14, re-signed":             {ErrContext, nil, true},
	"message sequence 15, re-signed":             {ErrContext, nil, false},
	"status 1, re-signed":                        {ErrContext, nil, true},
	"status 2, re-signed":                        {ErrContext, nil, true},
	"status 3, re-signed":                        {ErrContext, nil, true},
	"status 4, re-signed":                        {ErrContext, nil, true},
	"status 5, re-signed":                        {ErrContext, nil, true},
	"status 6, re-signed":                        {ErrContext, nil, true},
	"status 7, re-signed":                        {ErrContext, nil, true},
	"role bits 3, re-signed":                     {ErrContext, ErrContext, false},
	"role responder with no body (wrong length)": {ErrContext, ErrSize, false},
	"a response frame sent as a request":         {ErrContext, ErrSignature, false},
	"mode 2, re-signed":                          {ErrContext, ErrContext, false},
	"mode 3, re-signed":                          {ErrContext, ErrContext, false},
	"mode 4, re-signed":                          {ErrContext, ErrContext, false},
	"mode 5, re-signed":                          {ErrContext, ErrContext, false},
	"mode 6, re-signed":                          {ErrContext, ErrContext, false},
	"mode 7, re-signed":                          {ErrContext, ErrContext, false},
	"mode mutual but one way length":             {ErrContext, ErrSize, false},
	"mutual request handled by handle_kem_request (no expected hash)":  {ErrContext, nil, false},
	"anonymous role with mutual mode and a 32-byte body, no signature": {ErrContext, ErrContext, true},
	"kem id 3":                                            {ErrSuite, ErrSuite, false},
	"kem id 254":                                          {ErrSuite, ErrSuite, false},
	"hash function id 4":                                  {ErrSuite, ErrSuite, false},
	"hash function id 255":                                {ErrSuite, ErrSuite, false},
	"hash length byte 1, re-signed":                       {ErrSuite, ErrSuite, false},
	"hash length byte 15, re-signed":                      {ErrSuite, ErrSuite, false},
	"hash length byte 16, re-signed":                      {ErrContext, nil, true},
	"hash length byte 32, re-signed":                      {ErrSuite, ErrSuite, true},
	"hash length byte 255, re-signed":                     {ErrContext, nil, true},
	"signature scheme 1":                                  {ErrSuite, ErrSuite, false},
	"reserved byte 1, re-signed":                          {ErrContext, ErrContext, true},
	"kem id MlKem768, re-signed (responder holds X25519)": {ErrContext, nil, true},
	"bad signature: one bit of R":                         {ErrContext, ErrSignature, false},
	"bad signature: one bit of S":                         {ErrContext, ErrSignature, false},
	"bad signature: top bits of S set":                    {ErrContext, ErrSignature, false},
	"session id changed, signature not":                   {ErrContext, ErrSignature, false},
	"responder expects another client key":                {ErrContext, ErrSignature, false},
	"signed request but no client key known":              {ErrContext, nil, false},
	"anonymous request while a client key is known":       {nil, nil, false},
}

var responseVerdicts = map[string]verdict{
	"good response (control)":                              {err: nil},
	"wrong expected hash":                                  {err: ErrPin},
	"wrong expected hash: 16-byte prefix of the right one": {err: ErrPin},
	"another responder key":                                {err: ErrSignature},
	"one byte missing":                                     {err: ErrSize},
	"one byte too many":                                    {err: ErrSize},
	"body bit flipped":                                     {err: ErrSignature},
	"session id bit flipped, not re-signed":                {err: ErrSession},
	"session id bit flipped, re-signed by the responder":   {err: ErrSession, stricter: true},
	"sequence number 0 instead of 1, re-signed":            {err: ErrContext, stricter: true},
	"hash function id changed to SHA256, re-signed (initiator asked Blake3)": {err: ErrSuite, stricter: true},
	"version 2":            {err: ErrVersion},
	"version 0, re-signed": {err: ErrVersion},
	"reserved byte 1, signature over the byte as sent":                                {err: ErrContext},
	"reserved byte 1 added after signing":                                             {err: ErrContext, stricter: true},
	"hash length byte 32 instead of 0 added after signing":                            {err: ErrSuite, stricter: true},
	"version 0 set after signing":                                                     {err: ErrVersion, stricter: true},
	"role initiator in a mutual frame of the same length, re-signed by the responder": {err: ErrContext, stricter: true},
	"status 1, no body, signed":                                                       {err: ErrStatus},
	"status 1, no body, bad signature":                                                {err: ErrSignature}, // accepted by the reference
	"status 3, no body, signed":                                                       {err: ErrStatus},
	"status 6, no body, signed":                                                       {err: ErrStatus},
	"status 7, no body, signed":                                                       {err: ErrStatus},
	"status 3 with the body kept (wrong length)":                                      {err: ErrSize},
	"signature bit flipped":                                                           {err: ErrSignature},
}

// Shows R4.23, R4.27, R4.28.
func TestNegativeVectors(t *testing.T) {
	eachFile(t, func(t *testing.T, file *vectorFile) {
		if want := len(requestVerdicts) + len(responseVerdicts); len(file.Negative) != want {
			t.Errorf("%d rows, but %d verdicts", len(file.Negative), want)
		}
		for _, row := range file.Negative {
			t.Run(row.Direction+"/"+row.Case, func(t *testing.T) {
				table := requestVerdicts
				if row.Direction == "response" {
					table = responseVerdicts
				}
				want := named(t, table, row.Case)
				got := row.lp2()
				if want.err == nil && got != nil || !errors.Is(got, want.err) {
					t.Errorf("got %v, want %v", got, want.err)
				}
				if accepted := row.Result.Stage == "accepted"; accepted != (want.err == nil || want.stricter) {
					t.Errorf("the reference returned %q, the table disagrees", row.Result.Stage)
				}
				if row.Direction == "request" {
					if got := row.kkt(); want.frame == nil && got != nil || !errors.Is(got, want.frame) {
						t.Errorf("as a frame of KKT: got %v, want %v", got, want.frame)
					}
				}
			})
		}
	})
}

// lp2 returns the result of this package for the row.
func (row *negativeRow) lp2() error {
	if row.Direction == "request" {
		_, _, err := ParseRequest(row.Frame)
		return err
	}
	session := SessionID(row.RequestFrame[contextSize:])
	pk, err := VerifyResponse(row.Frame, kem.X25519, session, identity.PublicKey(row.ResponderKey))
	if err != nil {
		return err
	}
	return VerifyPin(pk, row.ExpectedHash)
}

// kkt returns the result for the frame and, if the row has a client key, the
// client's signature.
func (row *negativeRow) kkt() error {
	f, err := parseFrame(row.Frame)
	if err != nil || row.InitiatorKey == nil || len(f.signature) == 0 {
		return err
	}
	return f.verify(identity.PublicKey(row.InitiatorKey))
}
