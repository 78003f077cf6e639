package tickets

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"testing"

	"github.com/cloudflare/circl/blindsign/blindrsa"

	"lewes/crypto/identity"
	"lewes/crypto/internal/vectors"
)

// rfcKey returns the issuer's key of RFC 9578, appendix B.2.
func rfcKey(t testing.TB) *PrivateKey {
	t.Helper()
	v := vectors.Own[[]struct {
		Private vectors.Hex `json:"skS"`
	}](t, "rfc9578.json")
	block, _ := pem.Decode(v[0].Private)
	k, err := ParsePrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestTokenVectors covers RFC 9578, appendix B.2.
func TestTokenVectors(t *testing.T) {
	type row struct {
		Public    vectors.Hex `json:"pkS"`
		Challenge vectors.Hex `json:"token_challenge"`
		Nonce     vectors.Hex
		Blind     vectors.Hex
		Salt      vectors.Hex
		Request   vectors.Hex `json:"token_request"`
		Response  vectors.Hex `json:"token_response"`
		Token     vectors.Hex
	}
	for i, v := range vectors.Own[[]row](t, "rfc9578.json") {
		private := rfcKey(t)
		key, err := ParsePublicKey(v.Public)
		if err != nil {
			t.Fatal(err)
		}
		if got := private.Public(); !bytes.Equal(got.Encoded(), v.Public) || got.ID() != key.ID() {
			t.Errorf("vector %d: the public key is %x", i, got.Encoded())
		}

		random := func() io.Reader { return bytes.NewReader(append(bytes.Clone(v.Salt), v.Blind...)) }
		_, blinded, _, err := blind(bytes.NewReader(v.Nonce), random(), key, v.Challenge)
		if err != nil {
			t.Fatal(err)
		}
		request := Request{key.ID().Truncated(), [SignatureSize]byte(blinded)}
		if !bytes.Equal(request.Append(nil), v.Request) {
			t.Errorf("vector %d: the request is %x", i, request.Append(nil))
		}
		parsed, err := ParseRequest(v.Request)
		if err != nil || parsed != request {
			t.Errorf("vector %d: the request parses as %x, %v", i, parsed, err)
		}
		response, err := private.Sign(request)
		if err != nil || !bytes.Equal(response[:], v.Response) {
			t.Errorf("vector %d: the response is %x, %v", i, response, err)
		}
		token, err := finalize(bytes.NewReader(v.Nonce), random(), key, v.Challenge, response)
		if err != nil || !bytes.Equal(token.Append(nil), v.Token) {
			t.Errorf("vector %d: the token is %x, %v", i, token.Append(nil), err)
		}
		if parsed, err := ParseToken(v.Token); err != nil || parsed != token {
			t.Errorf("vector %d: the token parses as %x, %v", i, parsed, err)
		}
	}
}

// TestBlindSignatureVectors covers RFC 9474, appendix A, whose key of 4096 bits no PublicKey holds.
func TestBlindSignatureVectors(t *testing.T) {
	type row struct {
		P, Q, N, D, Msg, Salt, Inv, Sig vectors.Hex
		Blinded                         vectors.Hex `json:"blinded_msg"`
		BlindSig                        vectors.Hex `json:"blind_sig"`
	}
	number := func(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
	for _, v := range vectors.Own[[]row](t, "rfc9474.json") {
		private := &rsa.PrivateKey{
			PublicKey: rsa.PublicKey{N: number(v.N), E: exponent}, D: number(v.D),
			Primes: []*big.Int{number(v.P), number(v.Q)},
		}
		private.Precompute()
		client, err := blindrsa.NewClient(blindrsa.SHA384PSSDeterministic, &private.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		factor := new(big.Int).ModInverse(number(v.Inv), private.N).FillBytes(make([]byte, len(v.N)))
		blinded, state, err := client.Blind(bytes.NewReader(append(bytes.Clone(v.Salt), factor...)), v.Msg)
		if err != nil || !bytes.Equal(blinded, v.Blinded) {
			t.Errorf("the blinded message is %x, %v", blinded, err)
		}
		blindSig, err := blindrsa.NewSigner(private).BlindSign(blinded)
		if err != nil || !bytes.Equal(blindSig, v.BlindSig) {
			t.Errorf("the blind signature is %x, %v", blindSig, err)
		}
		sig, err := client.Finalize(state, blindSig)
		if err != nil || !bytes.Equal(sig, v.Sig) {
			t.Errorf("the signature is %x, %v", sig, err)
		}
		digest := sha512.Sum384(v.Msg)
		if err := rsa.VerifyPSS(&private.PublicKey, crypto.SHA384, digest[:], sig, &rsa.PSSOptions{SaltLength: sha512.Size384}); err != nil {
			t.Error(err)
		}
	}
}

// TestAppendixA makes the values of appendix A of PROTOCOL.md. The key is that of RFC 9578.
func TestAppendixA(t *testing.T) {
	seed := func(b byte) *identity.PrivateKey { return identity.FromSeed((*[32]byte)(bytes.Repeat([]byte{b}, 32))) }
	gateway, pin := seed(0x11).Public(), seed(0x99)
	d := &Directory{Issuer: "issuer.example", Epoch: DefaultEpoch, Keys: []Key{{Denomination{10 << 30, 30 * 86400}, 2900, rfcKey(t).Public()}}}
	const list = "lewes ticket keys 1\nissuer issuer.example\nepoch 604800\n" +
		"key 10737418240 2592000 2900 ca572f8982a9ca248a3056186322d93ca147266121ddeb5632c07f1f71cd2708\n"
	for _, c := range []struct{ what, got, want string }{
		{"origin_info", gateway.String(), "F25s3DdjXdCxYBhh2z8FBusVEMT4b9bGNFVKJi3wFoF4"},
		{"challenge_digest", fmt.Sprintf("%x", sha256.Sum256(Challenge("issuer.example", gateway))), "5dae850780112b6fc214ad4d0bd2aff37f2e15282bdd3552de3540643d918aa2"},
		{"voucher", Voucher(bytes.Repeat([]byte{0xaa}, VoucherSize)).Text(), "vkvk-vkvk-vkvk-vkvk-vkvk-vkvk-vjdz-inc6"},
		{"pin", pin.Public().String(), "4So8kA2BCfQD4zhvfYVqhWiyrXBgRPNRuoicJdh9G36c"},
		{"list", d.list(), list},
		{"signature", fmt.Sprintf("%x", pin.Sign([]byte(list))), "1ace632e18ad7d28685a19baf32dcef1273848c6b2d337caeedcce12f2ad1834cd1dcaf22afa25949a90639a96a34bd2b68a0204ecb276913b509d85d65e090e"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", c.what, c.got, c.want)
		}
	}
}

// TestKeyInOtherEncodings covers the encodings of a key that would give it a second id.
func TestKeyInOtherEncodings(t *testing.T) {
	key := testKey(t, 0)
	plain, err := x509.MarshalPKIXPublicKey(&key.public.rsa)
	if err != nil {
		t.Fatal(err)
	}
	encoded := key.Public().Encoded()
	even := bytes.Clone(encoded)
	even[PublicKeySize-len(keySuffix)-1] &^= 1
	small := bytes.Clone(encoded)
	small[len(keyPrefix)] &= 0x7f
	for _, b := range [][]byte{nil, plain, encoded[1:], append(bytes.Clone(encoded), 0), even, small} {
		if _, err := ParsePublicKey(b); err == nil {
			t.Errorf("%x was accepted", b)
		}
	}
}
