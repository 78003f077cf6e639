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
	transcript := unhex(t, "5be1e20687ed0b3f3b98a613c9faacff52f056630111e13a541687916e9b8f04")
	psk := [32]byte(unhex(t, "705b7a89f8b1eb0cd2dfa5b26211941d68532059c4043291fd59a36cb989c87a"))
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
	same(t, "HASH(Handshake 1)", hash[:], "17cb52ee0cdeb76d9fdb67451cc65ce704d1ca7faa6359fcc7815654c660097e")
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
		"04d9b840d0bc4678e15829b7dd14ef006df0932a0d05ea7d997dfedb522f0d95"+
		"8827095230ce3c9f4fd248a61d3dbe3a06")
	if _, err := i.ReadMessage2(m2); err != nil {
		t.Fatal(err)
	}
	m3, mine, err := i.WriteMessage3(&psk)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Noise message 3", m3, "95ca69467d428992679560b44c551a75dba448ef747ca2ffe657c96a467241de"+
		"37e17ff44f97a4c4a5a91195f17914872beae17be074e95a082b24e21cfb4209")
	from, theirs, err := r.ReadMessage3(&psk, m3)
	if err != nil {
		t.Fatal(err)
	}
	if from != client.Public {
		t.Errorf("message 3 is from %x", from)
	}
	for _, s := range []*noise.Split{mine, theirs} {
		checkSplit(t, s,
			"4ed48cb8effa56ae0c8b52aaeb9de9a74c651a4241d1ea9242ba495ef43427b3",
			"b0c15e5f22f04dcd1c8ce831df96f08488a2505f916012cfb90fab4a04335ccd",
			"2e2635d3ab57a26ed8de8bef7eabed71bf2e926e1683610bdb82df4d87f42a45")
	}
}

// TestAppendixASubsession makes the subsession of appendix A.
//
// Shows R7.1.
func TestAppendixASubsession(t *testing.T) {
	psk := [32]byte(unhex(t, "b77f402cea54e5865772d72459e1b21955139fd9d7591c14e48f4dbc9c4787a2"))
	generation := []byte{1, 0, 0, 0}
	prologue := append([]byte("lewes/2 subsession"), generation...)
	prologue = append(prologue, unhex(t, "5ed943d24f5dc90984c72916db1820c1ac01f4e4dfdbc9817bea3d8d082dafc5")...)
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
	same(t, "HASH(KK1)", hash[:], "6eceb8a59428eb708c189f5ce8dcc38882d02142b02b21e5476da27dd8320bd3")
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
	same(t, "HASH(KK2)", hash[:], "0598a607a998768bdbcac14d8a9d9544a3370a0199befcf9c017961ae0ce7084")
	_, mine, err := i.ReadMessage2(m2)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*noise.Split{mine, theirs} {
		checkSplit(t, s,
			"02ca91bd6fb335b3fae31e0e063ffb2155b4ae463a4fa8f5b328d18aa5b6b7f7",
			"cbf679b943481066e956b769d939c45c5829fcf2f216cb741a7fe83d7b16a5a1",
			"2e1ca9bd112acf5e56004b4bba6e7fd6142a2ac426c9115ed2f8d12e9b576abf")
	}
}
