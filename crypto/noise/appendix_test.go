package noise_test

import (
	"bytes"
	"encoding/hex"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/noise"
	"lewes/crypto/psq"
)

// The inputs and values below are those of appendix A of PROTOCOL.md.

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("%s is %x, want %s", what, got, want)
	}
}

func fill(b byte) (out [32]byte) {
	copy(out[:], bytes.Repeat([]byte{b}, len(out)))
	return out
}

// staticOf returns the Noise key pair of the identity with 32 bytes b as seed.
func staticOf(b byte) noise.KeyPair {
	seed := fill(b)
	private, public := identity.FromSeed(&seed).X25519()
	return noise.KeyPair{Private: private, Public: public}
}

func checkSplit(t *testing.T, s *noise.Split, c2g, g2c, h string) {
	t.Helper()
	same(t, "k_c2g", s.InitiatorToResponder[:], c2g)
	same(t, "k_g2c", s.ResponderToInitiator[:], g2c)
	same(t, "h", s.Hash[:], h)
}

// TestAppendixAHandshake makes the handshake of appendix A with PSQ's messages as
// payloads.
//
// Shows R5.5, R5.11.
func TestAppendixAHandshake(t *testing.T) {
	transcript := unhex(t, "4fee592860f22bd81808a87ee7049233fe34e850d89a7234f7750b39b83b3907")
	psk := [32]byte(unhex(t, "f398b6819be8a24e78d851b3180c16ef06355831c0b416703c637d3e79ad35d6"))
	prologue := append([]byte("lewes/2"), transcript...)
	client, gateway := staticOf(0x22), staticOf(0x11)
	e := noise.KeyPairFrom(fill(0x44))
	same(t, "client's X25519 key", client.Public[:], "9d8d78b9c9e6661e552f2f1af02095ee2f8743fa2e6183f41bb7077ef51b5379")
	same(t, "gateway's X25519 key", gateway.Public[:], "7a46e129fd805047448437e4744f1f1576be8c449fdf57e0c580d36c5cfc6668")
	same(t, "e", e.Public[:], "ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6b")
	ecdh, err := noise.DH(&client.Private, &gateway.Public)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "ecdh", ecdh[:], "e4f89e666efa723bce776c3df12d9313a2416965d9acc2279388230b8a136262")

	kp, err := kem.FromSeed(kem.MLKEM768, bytes.Repeat([]byte{0x33}, 64))
	if err != nil {
		t.Fatal(err)
	}
	seed := fill(0x22)
	now := time.Unix(1_800_000_000, 123*int64(time.Millisecond))
	offer, _, err := psq.Initiate(kem.MLKEM768, kp.Public(), transcript, identity.FromSeed(&seed), now, bytes.NewReader(bytes.Repeat([]byte{0x55}, 32)))
	if err != nil {
		t.Fatal(err)
	}

	i := noise.NewXKInitiator(prologue, client, e, gateway.Public)
	r := noise.NewXKResponder(prologue, gateway)
	m1, err := i.WriteMessage1(offer)
	if err != nil {
		t.Fatal(err)
	}
	hash := kdf.Hash(m1)
	same(t, "HASH(Handshake 1)", hash[:], "6949f2cbae5ef35347552c54025522e285c17f3f70f21468f1f2a882e83c5d04")
	payload, err := r.ReadMessage1(m1)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := psq.Respond(kp, transcript, payload)
	if err != nil {
		t.Fatal(err)
	}
	m2, err := r.WriteMessage2(noise.KeyPairFrom(fill(0x77)), opened.Secrets.AppendResponderMsg(nil))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Noise message 2", m2, "1cf579aba45a10ba1d1ef06d91fca2aa9ed0a1150515653155405d0b18cb9a67"+
		"5e630f09d749e2bdf66f6b5054c8e6b56df5e2749c469663277e498c6c61dc67"+
		"ba0c5eec42a542d5242f35932e8582e6fe")
	if _, err := i.ReadMessage2(m2); err != nil {
		t.Fatal(err)
	}
	m3, mine, err := i.WriteMessage3(&psk)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Noise message 3", m3, "95ca69467d428992679560b44c551a75dba448ef747ca2ffe657c96a467241de"+
		"e49835614a0b37564b00ae8b5a526c532ca47d6800d67278807c889b5ddcbc2e")
	from, theirs, err := r.ReadMessage3(&psk, m3)
	if err != nil {
		t.Fatal(err)
	}
	if from != client.Public {
		t.Errorf("message 3 is from %x", from)
	}
	for _, s := range []*noise.Split{mine, theirs} {
		checkSplit(t, s,
			"7480700d8e5c31a71e135a0ddbc3fc0d0e1f9202686c5d893f2ef0495cc06bb0",
			"4c59cbe038debfa23156a686d27924c388efa2b57436bab5f9062679c554cbab",
			"2b595100b705fae17390efaf3d85ddcfa3aaaba4e1bb0c0ae16aff4806206c63")
	}
}

// TestAppendixASubsession makes the subsession of appendix A.
//
// Shows R7.1.
func TestAppendixASubsession(t *testing.T) {
	psk := [32]byte(unhex(t, "b81ae134e77370ddd80f479703fd677b37a6e427f506a4db13c0d8c05003b533"))
	generation := []byte{1, 0, 0, 0}
	prologue := append([]byte("lewes/2 subsession"), generation...)
	prologue = append(prologue, unhex(t, "cc40d2fa338dcc259dbbb9004c06829f12fb148de3157ec3b38cc4a58a06a4ed")...)
	client, gateway := staticOf(0x22), staticOf(0x11)

	kp, err := kem.FromSeed(kem.MLKEM768, bytes.Repeat([]byte{0x99}, 64))
	if err != nil {
		t.Fatal(err)
	}
	i := noise.NewKKInitiator(prologue, client, noise.KeyPairFrom(fill(0x88)), gateway.Public, &psk)
	r := noise.NewKKResponder(prologue, gateway, client.Public, &psk)
	m1, err := i.WriteMessage1(kp.Public())
	if err != nil {
		t.Fatal(err)
	}
	hash := kdf.Hash(generation, m1)
	same(t, "HASH(KK1)", hash[:], "1f8d2ea000a73cd5dfb2029b4c39a21a19ebfdd5f34d599e48fccdca551403f2")
	pk, err := r.ReadMessage1(m1)
	if err != nil {
		t.Fatal(err)
	}
	ct, ss, err := kem.Encapsulate(kem.MLKEM768, pk, bytes.NewReader(bytes.Repeat([]byte{0xbb}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "ss", ss[:], "e3866617aee599e75b67bfbb66d165037575bd11ced26e84810d356ec9ac1f62")
	m2, theirs, err := r.WriteMessage2(noise.KeyPairFrom(fill(0xaa)), ct)
	if err != nil {
		t.Fatal(err)
	}
	hash = kdf.Hash(generation, []byte{0x08, 0x07, 0x06, 0x05}, m2)
	same(t, "HASH(KK2)", hash[:], "1f9acdc246214fbfc5c65803d773c36ec932f64b663f63b0e4959de3eaa3221c")
	_, mine, err := i.ReadMessage2(m2)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*noise.Split{mine, theirs} {
		checkSplit(t, s,
			"18ce570daab62ae5d51f5bdb4530a0e8caf0a10f3d2732892b955a944cce7188",
			"f811c122f0805e7130a4e8b32004cc1c4aa09c26419caf8ecbfcbe83a16c8f30",
			"21967ec995a79c0b4ddc3f2311c6db6acaebd69fa965b295bbae4c8cbe45eadf")
	}
}
