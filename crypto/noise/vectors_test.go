package noise

import (
	"bytes"
	"errors"
	"testing"

	flynn "github.com/flynn/noise"

	"lewes/crypto/internal/vectors"
)

type vector struct {
	ID                        string
	Protocol                  string
	Prologue                  vectors.Hex
	InitiatorStaticPrivate    vectors.Hex `json:"initiator_static_private"`
	InitiatorStaticPublic     vectors.Hex `json:"initiator_static_public"`
	ResponderStaticPrivate    vectors.Hex `json:"responder_static_private"`
	ResponderStaticPublic     vectors.Hex `json:"responder_static_public"`
	InitiatorEphemeralPrivate vectors.Hex `json:"initiator_ephemeral_private"`
	InitiatorEphemeralPublic  vectors.Hex `json:"initiator_ephemeral_public"`
	ResponderEphemeralPrivate vectors.Hex `json:"responder_ephemeral_private"`
	ResponderEphemeralPublic  vectors.Hex `json:"responder_ephemeral_public"`
	PSK                       vectors.Hex
	Handshake                 []struct{ Payload, Message vectors.Hex }
	HandshakeHash             vectors.Hex `json:"handshake_hash"`
	SplitInitiatorToResponder vectors.Hex `json:"split_initiator_to_responder"`
	SplitResponderToInitiator vectors.Hex `json:"split_responder_to_initiator"`
	Transport                 []struct {
		From             string
		Nonce            uint64
		Payload, Message vectors.Hex
	}
}

// Shows R5.11.
func TestVectors(t *testing.T) {
	vectors.Each(t, "noise.json", func(t *testing.T, list []vector) {
		if len(list) == 0 {
			t.Fatal("no vectors")
		}
		for _, v := range list {
			t.Run(v.ID, func(t *testing.T) {
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
	})
}

// pairs returns the four key pairs, after comparing the public keys.
func (v *vector) pairs(t *testing.T) (is, ie, rs, re KeyPair) {
	t.Helper()
	pair := func(private, public vectors.Hex) KeyPair {
		k := KeyPairFrom([32]byte(private))
		if k.Public != [32]byte(public) {
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
	psk := [32]byte(v.PSK)
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

	// LP/2 has no payload in message 3: the responder rejects it, but the bytes
	// must agree.
	if _, _, err := r.ReadMessage3(&psk, m[2].Message); !errors.Is(err, ErrSize) {
		t.Errorf("message 3 with a payload: got %v, want ErrSize", err)
	}
	i.setPSK(&psk)
	msg, split, err := i.take(step{write: true, data: m[2].Payload})
	wrote(t, m[2].Message)(msg, err)
	v.checkSplit(t, split)
	r.setPSK(&psk)
	payload, split, err := r.take(step{data: m[2].Message})
	read(t, m[2].Payload)(payload, err)
	v.checkSplit(t, split)
}

func checkKK(t *testing.T, v vector) {
	is, ie, rs, re := v.pairs(t)
	psk := [32]byte(v.PSK)
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
	if s.Hash != [32]byte(v.HandshakeHash) {
		t.Errorf("handshake hash %x, want %x", s.Hash, v.HandshakeHash)
	}
	if s.InitiatorToResponder != [32]byte(v.SplitInitiatorToResponder) {
		t.Errorf("key to the responder %x, want %x", s.InitiatorToResponder, v.SplitInitiatorToResponder)
	}
	if s.ResponderToInitiator != [32]byte(v.SplitResponderToInitiator) {
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

func wrote(t *testing.T, want []byte) func([]byte, error) { return returned(t, "wrote", want) }

func read(t *testing.T, want []byte) func([]byte, error) { return returned(t, "read", want) }

func returned(t *testing.T, verb string, want []byte) func([]byte, error) {
	return func(got []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s %x, want %x", verb, got, want)
		}
	}
}
