package noise

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	flynn "github.com/flynn/noise"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

func (h hexBytes) key() [32]byte { return [32]byte(h) }

type vector struct {
	ID                        string
	Protocol                  string
	Prologue                  hexBytes
	InitiatorStaticPrivate    hexBytes `json:"initiator_static_private"`
	InitiatorStaticPublic     hexBytes `json:"initiator_static_public"`
	ResponderStaticPrivate    hexBytes `json:"responder_static_private"`
	ResponderStaticPublic     hexBytes `json:"responder_static_public"`
	InitiatorEphemeralPrivate hexBytes `json:"initiator_ephemeral_private"`
	InitiatorEphemeralPublic  hexBytes `json:"initiator_ephemeral_public"`
	ResponderEphemeralPrivate hexBytes `json:"responder_ephemeral_private"`
	ResponderEphemeralPublic  hexBytes `json:"responder_ephemeral_public"`
	PSK                       hexBytes
	Handshake                 []struct{ Payload, Message hexBytes }
	HandshakeHash             hexBytes `json:"handshake_hash"`
	SplitInitiatorToResponder hexBytes `json:"split_initiator_to_responder"`
	SplitResponderToInitiator hexBytes `json:"split_responder_to_initiator"`
	Transport                 []struct {
		From             string
		Nonce            uint64
		Payload, Message hexBytes
	}
}

// eachVector runs test on the vectors kept here, and on all of the project's
// where its folder is beside the module.
func eachVector(t *testing.T, test func(*testing.T, vector)) {
	for name, path := range map[string]string{
		"kept":   filepath.Join("testdata", "noise.json"),
		"shared": filepath.Join("..", "..", "..", "shared", "vectors", "noise.json"),
	} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if os.IsNotExist(err) && name == "shared" {
				t.Skipf("no shared vectors beside the module: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			var file struct{ Vectors []vector }
			if err := json.Unmarshal(data, &file); err != nil {
				t.Fatal(err)
			}
			if len(file.Vectors) == 0 {
				t.Fatalf("%s holds no vectors", path)
			}
			for _, v := range file.Vectors {
				t.Run(v.ID, func(t *testing.T) { test(t, v) })
			}
		})
	}
}

// Shows R5.11.
func TestVectors(t *testing.T) {
	eachVector(t, func(t *testing.T, v vector) {
		switch v.Protocol {
		case "Noise_XKpsk3_25519_ChaChaPoly_SHA256":
			checkXK(t, v)
		case "Noise_KKpsk0_25519_ChaChaPoly_SHA256":
			checkKK(t, v)
		default:
			t.Fatalf("unknown protocol %s", v.Protocol)
		}
	})
}

// pairs returns the four key pairs, public keys computed and compared.
func (v *vector) pairs(t *testing.T) (is, ie, rs, re KeyPair) {
	t.Helper()
	pair := func(private, public hexBytes) KeyPair {
		k := KeyPairFrom(private.key())
		if k.Public != public.key() {
			t.Fatalf("public key of %x is %x, want %x", private, k.Public, public)
		}
		return k
	}
	return pair(v.InitiatorStaticPrivate, v.InitiatorStaticPublic),
		pair(v.InitiatorEphemeralPrivate, v.InitiatorEphemeralPublic),
		pair(v.ResponderStaticPrivate, v.ResponderStaticPublic),
		pair(v.ResponderEphemeralPrivate, v.ResponderEphemeralPublic)
}

func checkXK(t *testing.T, v vector) {
	is, ie, rs, re := v.pairs(t)
	psk := v.PSK.key()
	m := v.Handshake
	i := NewXKInitiator(v.Prologue, is, ie, rs.Public)
	r := NewXKResponder(v.Prologue, rs)

	wrote(t, m[0].Message)(i.WriteMessage1(m[0].Payload))
	read(t, m[0].Payload)(r.ReadMessage1(m[0].Message))
	wrote(t, m[1].Message)(r.WriteMessage2(re, m[1].Payload))
	read(t, m[1].Payload)(i.ReadMessage2(m[1].Message))

	if len(m[2].Payload) == 0 {
		msg, split, err := i.WriteMessage3(&psk)
		wrote(t, m[2].Message)(msg, err)
		v.checkSplit(t, split)
		client, split, err := r.ReadMessage3(&psk, m[2].Message)
		if err != nil {
			t.Fatal(err)
		}
		if client != is.Public {
			t.Errorf("client's static key is %x, want %x", client, is.Public)
		}
		v.checkSplit(t, split)
		return
	}

	// LP/2 has no payload in message 3: the bytes still have to agree, and the
	// responder refuses them.
	if _, _, err := r.ReadMessage3(&psk, m[2].Message); !errors.Is(err, ErrSize) {
		t.Errorf("message 3 with a payload: got %v, want ErrSize", err)
	}
	i.x.setPSK(&psk)
	msg, split, err := i.x.take(step{write: true, data: m[2].Payload})
	wrote(t, m[2].Message)(msg, err)
	v.checkSplit(t, split)
	r.x.setPSK(&psk)
	payload, split, err := r.x.take(step{data: m[2].Message})
	read(t, m[2].Payload)(payload, err)
	v.checkSplit(t, split)
}

func checkKK(t *testing.T, v vector) {
	is, ie, rs, re := v.pairs(t)
	psk := v.PSK.key()
	m := v.Handshake
	i := NewKKInitiator(v.Prologue, is, ie, rs.Public, &psk)
	r := NewKKResponder(v.Prologue, rs, is.Public, &psk)

	wrote(t, m[0].Message)(i.WriteMessage1(m[0].Payload))
	read(t, m[0].Payload)(r.ReadMessage1(m[0].Message))
	msg, split, err := r.WriteMessage2(re, m[1].Payload)
	wrote(t, m[1].Message)(msg, err)
	v.checkSplit(t, split)
	payload, split, err := i.ReadMessage2(m[1].Message)
	read(t, m[1].Payload)(payload, err)
	v.checkSplit(t, split)
}

func (v *vector) checkSplit(t *testing.T, s *Split) {
	t.Helper()
	if s == nil {
		t.Fatal("no split")
	}
	if s.Hash != v.HandshakeHash.key() {
		t.Errorf("handshake hash %x, want %x", s.Hash, v.HandshakeHash)
	}
	if s.InitiatorToResponder != v.SplitInitiatorToResponder.key() {
		t.Errorf("key to the responder %x, want %x", s.InitiatorToResponder, v.SplitInitiatorToResponder)
	}
	if s.ResponderToInitiator != v.SplitResponderToInitiator.key() {
		t.Errorf("key to the initiator %x, want %x", s.ResponderToInitiator, v.SplitResponderToInitiator)
	}
	for _, m := range v.Transport {
		key := s.InitiatorToResponder
		if m.From == "responder" {
			key = s.ResponderToInitiator
		}
		if got := flynn.CipherChaChaPoly.Cipher(key).Encrypt(nil, m.Nonce, nil, m.Payload); !bytes.Equal(got, m.Message) {
			t.Errorf("transport message %d from %s is %x, want %x", m.Nonce, m.From, got, m.Message)
		}
	}
}

func wrote(t *testing.T, want []byte) func([]byte, error) {
	t.Helper()
	return func(got []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("wrote %x, want %x", got, want)
		}
	}
}

func read(t *testing.T, want []byte) func([]byte, error) {
	t.Helper()
	return func(got []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("read %x, want %x", got, want)
		}
	}
}
