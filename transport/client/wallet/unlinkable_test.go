package wallet

import (
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"slices"
	"testing"

	"lewes/crypto/tickets"
)

var unlinkable = flag.Int("unlinkable", 100, "number of tickets of TestUnlinkable")

// What the issuer sees and signs, and what the gateway sees when the tickets are spent, have no value in
// common, but for the two that all clients share: the hash of the challenge and the id of the key. So nobody
// who has both transcripts can match one with the other.
func TestUnlinkable(t *testing.T) {
	n := *unlinkable
	if testing.Short() {
		n = 10
	}
	w, i := newWallet(t, 0), newIssuer(t, n)
	quick(w)
	if got, err := w.Fetch(t.Context(), i.order(0), nil); err != nil || got != n {
		t.Fatalf("%d tickets, %v", got, err)
	}
	i.good(w, n)

	const window = 8 // bytes: by chance, two of these are equal in one run of a hundred million
	issuer := make(map[uint64]int)
	note := func(number int, b []byte) {
		for at := range len(b) - window + 1 {
			issuer[binary.BigEndian.Uint64(b[at:])] = number
		}
	}
	for number, r := range i.seen {
		note(number, r.Blinded[:])
		note(number, i.sent[number][:])
	}
	note(n, []byte(testVoucher.Text()))
	note(n, testVoucher[:])

	bought := read(t, w).Tickets
	rand.Shuffle(len(bought), func(a, b int) { bought[a], bought[b] = bought[b], bought[a] })
	common, err := tickets.ParseToken(bought[0].Token)
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[uint64]bool)
	for number, x := range bought {
		token, err := tickets.ParseToken(x.Token)
		if err != nil || token.Challenge != common.Challenge || token.Key != common.Key {
			t.Fatalf("token %d: %v; challenge or key differ from the first one's", number, err)
		}
		spent := token.Spent()
		for _, b := range [][]byte{token.Nonce[:], token.Signature[:], spent[:]} {
			for at := range len(b) - window + 1 {
				v := binary.BigEndian.Uint64(b[at:])
				if by, found := issuer[v]; found {
					t.Fatalf("token %d and request %d of the issuer share %x", number, by, b[at:at+window])
				}
				if values[v] {
					t.Fatalf("token %d shares %x with another", number, b[at:at+window])
				}
				values[v] = true
			}
		}
	}
	if !slices.ContainsFunc(i.seen, func(r tickets.Request) bool { return r.Truncated == common.Key.Truncated() }) {
		t.Error("the transcripts are of different keys")
	}
}
