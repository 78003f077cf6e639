package kkt

import (
	"bytes"
	"encoding/hex"
	"testing"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
)

// TestAppendixA makes the frames of appendix A of PROTOCOL.md.
//
// Shows R4.25.
func TestAppendixA(t *testing.T) {
	gateway := identity.FromSeed((*[32]byte)(bytes.Repeat([]byte{0x11}, 32)))
	kp, err := kem.FromSeed(kem.MLKEM768, bytes.Repeat([]byte{0x33}, 64))
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string, got []byte, want string) {
		t.Helper()
		if hex.EncodeToString(got) != want {
			t.Errorf("%s is %x, want %s", what, got, want)
		}
	}
	hello, err := hex.DecodeString("0403020100d2496b00000000ae7c35e07437e42466e5130c83f09586ed71c310e7c7f546030100000000")
	if err != nil {
		t.Fatal(err)
	}
	hash := kdf.Hash(hello)
	session := SessionID(hash[:])
	same("request", AppendRequest(nil, kem.MLKEM768, session), "1002010000000075824a003b62b91ae9bfcbc674c1503d")
	response := AppendResponse(nil, kem.MLKEM768, kp.Public(), session, gateway)
	hash = kdf.Hash(response)
	same("HASH(KKT response)", hash[:], "526623e0956ebe5803aab5a07d471f1d35b5f8fbaf46d76e9c123a41bd6a1c61")
	pin, err := hex.DecodeString("16712d2ae6adae8bd4644498b287e0fa7322a75e810ea87b9e9e8d3c0ea7a6cd")
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyPin(kp.Public(), pin); err != nil {
		t.Error(err)
	}
}
