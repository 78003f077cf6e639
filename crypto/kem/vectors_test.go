package kem_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"lewes/crypto/internal/vectors"
	"lewes/crypto/kem"
)

type row struct {
	Name       string      `json:"id"`
	KEM        string      `json:"kem"`
	Seed       vectors.Hex `json:"kem_seed"`
	Public     vectors.Hex `json:"kem_public_key"`
	PublicTLS  vectors.Hex `json:"pk_tls"`
	Randomness vectors.Hex `json:"encaps_randomness"`
	Enc        vectors.Hex `json:"enc_raw"`
	EncTLS     vectors.Hex `json:"enc_tls"`
	Secret     vectors.Hex `json:"ss_raw"`
	SecretTLS  vectors.Hex `json:"ss_tls"`
}

var referenceNames = map[string]kem.ID{
	"X25519":          kem.X25519,
	"MlKem768":        kem.MLKEM768,
	"XWingKemDraft06": kem.XWing,
}

func TestReferenceVectors(t *testing.T) {
	vectors.Each(t, "psq_v1.json", func(t *testing.T, rows []row) {
		seen := map[kem.ID]bool{}
		for _, r := range rows {
			id, ok := referenceNames[r.KEM]
			if !ok {
				t.Fatalf("%s: unknown KEM %q", r.Name, r.KEM)
			}
			seen[id] = true
			t.Run(r.Name, func(t *testing.T) { checkRow(t, id, r) })
		}
		if len(seen) != len(referenceNames) {
			t.Errorf("rows for %v only", seen)
		}
	})
}

func checkRow(t *testing.T, id kem.ID, r row) {
	pair, err := kem.FromSeed(id, r.Seed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(pair.Public(), r.Public) {
		t.Error("public key differs")
	}
	if len(r.Public) != id.PublicKeySize() || len(r.Enc) != id.CiphertextSize() {
		t.Errorf("sizes %d and %d, not %d and %d", id.PublicKeySize(), id.CiphertextSize(), len(r.Public), len(r.Enc))
	}

	ct, ss, err := kem.Encapsulate(id, r.Public, bytes.NewReader(r.Randomness))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ct, r.Enc) {
		t.Error("ciphertext differs")
	}
	if !bytes.Equal(ss[:], r.Secret) {
		t.Error("secret of the encapsulation differs")
	}
	got, err := pair.Decapsulate(r.Enc)
	if err != nil || !bytes.Equal(got[:], r.Secret) {
		t.Errorf("secret of the decapsulation differs, error %v", err)
	}

	if got := kem.AppendPublicKeyTLS(nil, id, r.Public); !bytes.Equal(got, r.PublicTLS) {
		t.Error("TLS form of the public key differs")
	}
	if got := kem.AppendCiphertextTLS(nil, id, r.Enc); !bytes.Equal(got, r.EncTLS) {
		t.Error("TLS form of the ciphertext differs")
	}
	if got := kem.AppendSecretTLS(nil, id, &ss); !bytes.Equal(got, r.SecretTLS) {
		t.Error("TLS form of the secret differs")
	}
	raw, tls, rest, err := kem.CutCiphertextTLS(id, append(bytes.Clone(r.EncTLS), "more"...))
	if err != nil || !bytes.Equal(raw, r.Enc) || !bytes.Equal(tls, r.EncTLS) || string(rest) != "more" {
		t.Errorf("the TLS form is not taken apart again: %v", err)
	}
}

type points struct {
	X25519 []struct {
		What string      `json:"what"`
		U    vectors.Hex `json:"u"`
		DH   vectors.Hex `json:"nym_crypto_dh_with_scalar_4242"`
	} `json:"x25519_odd_points"`
}

// Every row but the plain base point is of low order or not canonical, and is
// rejected as a public key and as a ciphertext, alone and within X-Wing.
//
// Shows R3.3.
func TestUnusualPointVectors(t *testing.T) {
	vectors.Each(t, "kdf.json", func(t *testing.T, v points) {
		taken := 0
		for _, r := range v.X25519 {
			want := r.What == "9"
			low := bytes.Equal(r.DH, make([]byte, 32))
			if low && want {
				t.Fatalf("%s: of low order", r.What)
			}
			for _, id := range []kem.ID{kem.X25519, kem.XWing} {
				scalar := bytes.Repeat([]byte{0x42}, seedSize[id])
				pair, err := kem.FromSeed(id, scalar)
				if err != nil {
					t.Fatal(err)
				}
				ct, _, err := kem.Encapsulate(id, pair.Public(), bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
				if err != nil {
					t.Fatal(err)
				}
				pk := bytes.Clone(pair.Public())
				copy(pk[len(pk)-32:], r.U)
				copy(ct[len(ct)-32:], r.U)

				_, ss, err := kem.Encapsulate(id, pk, bytes.NewReader(bytes.Repeat([]byte{0x42}, 64)))
				if want != (err == nil) || (err != nil && !errors.Is(err, kem.ErrPublicKey)) {
					t.Errorf("%s as a public key of %v: error %v, want it taken: %v", r.What, id, err, want)
				}
				got, err := pair.Decapsulate(ct)
				if want != (err == nil) || (err != nil && !errors.Is(err, kem.ErrCiphertext)) {
					t.Errorf("%s as a ciphertext of %v: error %v, want it taken: %v", r.What, id, err, want)
				}
				if !want && (ss != [32]byte{} || got != [32]byte{}) {
					t.Errorf("%s, %v: a secret comes with the error", r.What, id)
				}
				if want && id == kem.X25519 && (!bytes.Equal(ss[:], r.DH) || !bytes.Equal(got[:], r.DH)) {
					t.Errorf("%s: secrets %x and %x, want %x", r.What, ss, got, r.DH)
				}
			}
			if want {
				taken++
			}
		}
		if len(v.X25519) < 11 || taken != 1 {
			t.Errorf("%d rows, %d taken", len(v.X25519), taken)
		}
	})
}

// seedSize is in bytes.
var seedSize = map[kem.ID]int{kem.MLKEM768: 64, kem.XWing: 32, kem.X25519: 32}

// A TLS form has one encoding: other length forms and algorithms are rejected.
func TestCutCiphertextTLSRejectsOtherForms(t *testing.T) {
	ml := bytes.Repeat([]byte{1}, 1088)
	xw := bytes.Repeat([]byte{1}, 1120)
	x := bytes.Repeat([]byte{1}, 32)
	for _, c := range []struct {
		name string
		id   kem.ID
		form string
	}{
		{"empty", kem.MLKEM768, ""},
		{"algorithm alone", kem.MLKEM768, "\x03"},
		{"algorithm alone, X25519", kem.X25519, "\x00"},
		{"one byte short", kem.MLKEM768, "\x03\x44\x40" + string(ml[1:])},
		{"one byte short, X-Wing", kem.XWing, "\x05\x44\x40" + string(xw[1:])},
		{"four-byte length", kem.MLKEM768, "\x03\x80\x00\x04\x40" + string(ml)},
		{"eight-byte length", kem.MLKEM768, "\x03\xc0\x00\x00\x00\x00\x00\x04\x40" + string(ml)},
		{"length 1087", kem.MLKEM768, "\x03\x44\x3f" + string(ml)},
		{"length 1184", kem.MLKEM768, "\x03\x44\xa0" + string(ml)},
		{"algorithm of X-Wing", kem.MLKEM768, "\x05\x44\x40" + string(xw)},
		{"algorithm of ML-KEM for X-Wing", kem.XWing, "\x03\x44\x40" + string(xw)},
		{"algorithm of ML-KEM for X25519", kem.X25519, "\x03" + string(x)},
		{"algorithm 7", kem.X25519, "\x07" + string(x)},
		{"algorithm 255", kem.X25519, "\xff" + string(x)},
	} {
		raw, tls, rest, err := kem.CutCiphertextTLS(c.id, []byte(c.form))
		if !errors.Is(err, kem.ErrTLSForm) || raw != nil || tls != nil || rest != nil {
			t.Errorf("%s: error %v, want ErrTLSForm and nothing else", c.name, err)
		}
	}
	if _, _, _, err := kem.CutCiphertextTLS(kem.McEliece, ml); !errors.Is(err, kem.ErrUnsupported) {
		t.Errorf("McEliece: error %v, want ErrUnsupported", err)
	}
}

func FuzzCutCiphertextTLS(f *testing.F) {
	f.Add(byte(kem.X25519), []byte("\x00"+strings.Repeat("x", 32)))
	f.Add(byte(kem.MLKEM768), []byte("\x03\x44\x40"+strings.Repeat("x", 1088)+"rest"))
	f.Add(byte(kem.XWing), []byte("\x05\x44\x40"+strings.Repeat("x", 1120)))
	f.Add(byte(kem.MLKEM768), []byte("\x03\x80\x00\x04\x40"+strings.Repeat("x", 1088)))
	f.Add(byte(kem.McEliece), []byte{})
	f.Fuzz(func(t *testing.T, number byte, b []byte) {
		id := kem.ID(number)
		raw, tls, rest, err := kem.CutCiphertextTLS(id, b)
		if err != nil {
			return
		}
		if again := append(kem.AppendCiphertextTLS(nil, id, raw), rest...); !bytes.Equal(again, b) {
			t.Fatal("accepted another form than the one that is written")
		}
		if len(raw) != id.CiphertextSize() || !bytes.HasSuffix(tls, raw) || cap(tls) != len(tls) || cap(raw) != len(raw) {
			t.Fatal("the parts do not fit")
		}
	})
}
