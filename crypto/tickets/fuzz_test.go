package tickets

import (
	"bytes"
	"testing"
)

// FuzzMessages checks that the parsers accept one encoding of each message.
func FuzzMessages(f *testing.F) {
	token, request := Token{Nonce: [32]byte{1}}, Request{Truncated: 2}
	key := rfcKey(f).Public()
	for _, b := range [][]byte{nil, token.Append(nil), request.Append(nil), make([]byte, ResponseSize), key.Encoded()} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(what string, again []byte, err error) {
			if err == nil && !bytes.Equal(again, b) {
				t.Errorf("%s: %x was accepted as %x", what, b, again)
			}
		}
		parsedToken, err := ParseToken(b)
		check("token", parsedToken.Append(nil), err)
		parsedRequest, err := ParseRequest(b)
		check("request", parsedRequest.Append(nil), err)
		response, err := ParseResponse(b)
		check("response", response[:], err)
		if k, err := ParsePublicKey(b); err == nil {
			check("key", k.Encoded(), nil)
		}
	})
}

// FuzzDirectory checks that a list of keys, once its signature is verified, has one form. The fuzzer
// cannot sign, so it starts behind the signature.
func FuzzDirectory(f *testing.F) {
	key := rfcKey(f).Public()
	d := &Directory{Issuer: "issuer.example", Epoch: DefaultEpoch, Keys: []Key{{Denomination{1, 2}, 3, key}}}
	f.Add(d.list())
	f.Add(listHead + "issuer a\nepoch 3600\nkey 1 2 3 " + key.ID().String()[:62] + "\n")
	f.Add(listHead)
	f.Fuzz(func(t *testing.T, list string) {
		if len(list) < len(listHead) || list[:len(listHead)] != listHead {
			return
		}
		if d, err := parseList(list, map[KeyID]*PublicKey{key.id: key}); err == nil && d.list() != list {
			t.Errorf("%q was accepted as %q", list, d.list())
		}
		_, _ = ParseDirectory([]byte(list), testIdentity(9).Public())
	})
}
