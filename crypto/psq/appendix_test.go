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
			"4fee592860f22bd81808a87ee7049233fe34e850d89a7234f7750b39b83b3907",
			"c9c2d6c99ac7d72b2930a7ff9b78dfb52199b49f68e5237a56c1d0ef0bf40ee4",
			map[string]string{
				"psq_psk":            "0c875ca01d4a2697a756cd663505497c68dfaec13270b7fa966e9f0792aef64e",
				"key_i, iv_i":        "705536c77889dff4035ee17668d885263e207528e5b8f2e7a366e7db4a96c712ab0f69d61665ca0d2f1e3331",
				"key_r, iv_r":        "3ff8d4f52a305bab26271ba8ad8fc66b0798a11db1d223a581dca8414c5254e42da17cdcf799d82436ad8d39",
				"mac":                "a9fb4108d4b624ac3f6c840fd6f501b292fb5dcbed18ca719b4c444abc24aa3f",
				"HASH(ciphertext)":   "9483538f49ffa5ea91296a1fd0c51dfc7a90ac51bf895bb223a0ec825885c68c",
				"HASH(InitiatorMsg)": "00e2f835cf442520df654d942686606cd9d52e1b385412d41da3343f70fc0b0e",
				"handle":             "b9f99badff486a733f7253f90d32a1fc",
				"ResponderMsg":       "8f8a17faec7d9416e31a92473032b922101acce42b521545549041c31e555452b3",
			},
		},
		{
			kem.XWing, 32, append(bytes.Repeat([]byte{0x55}, 32), bytes.Repeat([]byte{0x5a}, 32)...),
			"949ab628cfeaeca82939dac438aa1232fc8eab5a0f22f13b46263f03ed1a3c79",
			"c76b483e562980f419bcb611701b7489522567a4e6da8dc5de1ff2fb2435383c",
			nil,
		},
		{
			kem.X25519, 32, bytes.Repeat([]byte{0x55}, 32),
			"097d8639ce39eed3edbd737e0c89e054a56e4fd575f61cf06d203227fb27f915",
			"6775f8fd3ed614a04cb8ebf13e629dc202b5e345407fff3909238f22aab072ab",
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
