package psq

import (
	"bytes"
	"encoding/hex"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
)

// TestAppendixA compares the messages with appendix A of PROTOCOL.md, for each KEM.
//
// Shows R5.2, R5.4, R5.5, R5.9.
func TestAppendixA(t *testing.T) {
	client := identity.FromSeed((*[32]byte)(bytes.Repeat([]byte{0x22}, 32)))
	now := time.Unix(1_800_000_000, 123*int64(time.Millisecond))
	unhex := func(s string) []byte {
		t.Helper()
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		id         kem.ID
		seed       int
		randomness []byte
		transcript string
		kPQ        string
		more       map[string]string
	}{
		{
			kem.MLKEM768, 64, bytes.Repeat([]byte{0x55}, 32),
			"5be1e20687ed0b3f3b98a613c9faacff52f056630111e13a541687916e9b8f04",
			"85dea7c654829b143affbc0b8cc7837bdbba9ac3e239a6d3ffbd0191f3e1fc42",
			map[string]string{
				"psq_psk":            "f112395cb5f64ffeb1237616bafdc13bcbdc88acc5c2712f52e4c5eb5181d756",
				"key_i, iv_i":        "32fc0110b40326b394c98fac8c85c7b959521cb3de93045cdfc9c942fafa35361f87115b3a1ef0bef588d5c5",
				"key_r, iv_r":        "8b8132ab90976b77390b0140b15c2dedcc2cac893fe1be4cc86799fdaf206af3278f7ddec47b47524d54e15f",
				"mac":                "b22423565298ee0bc89016e81422dc6e0b49b46448811bd113d064cccdba9359",
				"HASH(ciphertext)":   "9483538f49ffa5ea91296a1fd0c51dfc7a90ac51bf895bb223a0ec825885c68c",
				"HASH(InitiatorMsg)": "c8325ae5cca015faae33ddd053f9f281f308deb0d2a0c098c5ef261053be91b4",
				"handle":             "5a96310292b210b711208a126dcd860c",
				"ResponderMsg":       "d530a0b3eb8830d3f42dd0a0b9eeb097101fbdbaba11695bea93f694201b85a081",
			},
		},
		{
			kem.XWing, 32, append(bytes.Repeat([]byte{0x55}, 32), bytes.Repeat([]byte{0x5a}, 32)...),
			"e89e612213d6ed867d821a38d21affae9ae9b44c594c988280ee73100086fe5c",
			"bfd98d3a242dce2d995d0eb96e528d34f6c1ad980669e6ffa13c1ffdcacd4efd",
			nil,
		},
		{
			kem.X25519, 32, bytes.Repeat([]byte{0x55}, 32),
			"5614a256fa10e4448095055d5835f6dc2d114f952290e0323132edf2d83b6b73",
			"d4dc5b388ead4ce9b822a9e2aeb4ec572eedf1b306b8aa4986ffcd70e8e00d3c",
			nil,
		},
	} {
		t.Run(c.id.String(), func(t *testing.T) {
			kp, err := kem.FromSeed(c.id, bytes.Repeat([]byte{0x33}, c.seed))
			if err != nil {
				t.Fatal(err)
			}
			msg, s, err := Initiate(c.id, kp.Public(), unhex(c.transcript), client, now, bytes.NewReader(c.randomness))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "k_pq", s.KPQ[:], unhex(c.kPQ))
			m, err := parseInitiatorMsg(c.id, msg)
			if err != nil {
				t.Fatal(err)
			}
			ciphertext, whole, handle := kdf.Hash(m.ciphertext), kdf.Hash(msg), s.Handle()
			got := map[string][]byte{
				"psq_psk":            s.PSK[:],
				"key_i, iv_i":        expand(s.KPQ[:], toResponder, 44),
				"key_r, iv_r":        expand(s.KPQ[:], toInitiator, 44),
				"mac":                m.mac,
				"HASH(ciphertext)":   ciphertext[:],
				"HASH(InitiatorMsg)": whole[:],
				"handle":             handle[:],
				"ResponderMsg":       s.AppendResponderMsg(nil),
			}
			for name, want := range c.more {
				equal(t, name, got[name], unhex(want))
			}
		})
	}
}
