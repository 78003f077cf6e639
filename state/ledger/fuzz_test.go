package ledger

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"lewes/state/snapshot"
)

// decoders are those of all values, by bucket.
var decoders = map[string]func() func(*snapshot.Codec){
	bucketHeader:    func() func(*snapshot.Codec) { return new(header).code },
	bucketAccounts:  func() func(*snapshot.Codec) { return new(Account).code },
	bucketPeers:     func() func(*snapshot.Codec) { return new(reference).code },
	bucketAddresses: func() func(*snapshot.Codec) { return new(Reservation).code },
	bucketSpent:     func() func(*snapshot.Codec) { return new(spend).code },
	bucketIssuers:   func() func(*snapshot.Codec) { return new(issuer).code },
	bucketResults:   func() func(*snapshot.Codec) { return new(result).code },
}

// fuzzValue feeds a decoder content with a valid checksum. What it accepts, it encodes to the same bytes.
func fuzzValue(f *testing.F, bucket string, seeds ...func(*snapshot.Codec)) {
	key := []byte("key")
	for _, code := range seeds {
		f.Add(encodeValue(bucket, key, code)[crcSize:])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		value := append(make([]byte, crcSize), content...)
		if decodeValue(bucket, key, value, decoders[bucket]()) == nil && checksum(bucket, key, content) != 0 {
			t.Fatal("a value without checksum was accepted")
		}
		binary.LittleEndian.PutUint32(value, checksum(bucket, key, content))
		code := decoders[bucket]()
		if decodeValue(bucket, key, value, code) == nil && !bytes.Equal(encodeValue(bucket, key, code), value) {
			t.Fatalf("%x is encoded as %x", value, encodeValue(bucket, key, code))
		}
	})
}

func FuzzHeader(f *testing.F) {
	h := header{version: version, gateway: gateway, clock: start}
	copy(h.magic[:], magic)
	fuzzValue(f, bucketHeader, h.code)
}

func FuzzAccount(f *testing.F) {
	full := Account{Seen: start, numbers: 7, Grants: []Grant{{Bytes: 10, Used: 3, Expires: start, Source: SourceTicket, Number: 7}}}
	full.Attachments = []Attachment{*peer(1, "10.0.0.2"), {Mode: Mixnet, State: On, ClientID: [32]byte{1}}, {Mode: Relay, State: On}}
	full.Attachments[0].State, full.Attachments[0].IPv6 = Removing, netip.MustParseAddr("fd00::2")
	fuzzValue(f, bucketAccounts, full.code, (&Account{Seen: start}).code)
}

func FuzzReservation(f *testing.F) {
	fuzzValue(f, bucketAddresses, (&Reservation{Owner: client(1), Until: start}).code, (&Reservation{Owner: client(1)}).code)
}

func FuzzPeer(f *testing.F) { fuzzValue(f, bucketPeers, (&reference{1}).code) }

func FuzzSpend(f *testing.F) { fuzzValue(f, bucketSpent, (&spend{request: [32]byte{1}}).code) }

func FuzzIssuer(f *testing.F) {
	fuzzValue(f, bucketIssuers, (&issuer{start, start.Add(time.Hour)}).code, (&issuer{}).code)
}

func FuzzResult(f *testing.F) { fuzzValue(f, bucketResults, (&result{start, []byte("result")}).code) }
