package wire

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
	"pgregory.net/rapid"
)

func FuzzRegister(f *testing.F)       { fuzz(f, "Register") }
func FuzzRegisterResult(f *testing.F) { fuzz(f, "RegisterResult") }

func drawBytes(t *rapid.T, n int, name string) []byte {
	return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, name)
}

func drawKey(t *rapid.T, name string) [32]byte { return [32]byte(drawBytes(t, 32, name)) }

// Shows R9.1, R9.7.
func TestRegisterRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Register{
			RequestID: rapid.Uint32Min(1).Draw(t, "id"),
			Mode:      Mode(rapid.IntRange(0, int(ModeBalance)).Draw(t, "mode")),
			Timestamp: rapid.Uint64Max(1<<63-1).Draw(t, "timestamp"),
		}
		switch m.Mode {
		case ModeDVPN:
			m.WGPublicKey, m.WGProof = drawBytes(t, 32, "key"), drawBytes(t, WGProofSize, "proof")
		case ModeMixnet:
			m.ClientID = drawBytes(t, 32, "client id")
		}
		if m.Mode != ModeBalance && rapid.Bool().Draw(t, "paid") {
			m.TicketType = rapid.SampledFrom([]TicketType{TicketBlindRSA2048, TicketUnknown}).Draw(t, "type")
			m.Credential = drawBytes(t, rapid.IntRange(1, MaxCredential).Draw(t, "size"), "credential")
		}
		if got, err := ParseRegister(m.Append(nil)); err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%+v, %v; want %+v", got, err, m)
		}
	})
}

// Shows R9.1, R9.9.
func TestRegisterResultRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := RegisterResult{
			RequestID: rapid.Uint32().Draw(t, "id"),
			Code:      RegisterCode(rapid.Uint8().Draw(t, "code")), // unknown ones too
			Remaining: rapid.OneOf(rapid.Uint64Max(1<<63-1), rapid.Just(Unlimited)).Draw(t, "remaining"),
			ExpiresAt: rapid.Uint64Max(1<<63-1).Draw(t, "expires"),
		}
		if d := drawDetail(t); len(d) > 0 {
			m.Error = d
		}
		for range rapid.IntRange(0, MaxTickets).Draw(t, "tickets") {
			m.Tickets = append(m.Tickets, TicketOffer{
				rapid.SampledFrom([]TicketType{TicketBlindRSA2048, TicketUnknown}).Draw(t, "type"), drawHost(t), drawKey(t, "key id"),
				rapid.Uint64Max(1<<63-1).Draw(t, "bytes"), rapid.Uint64Max(1<<63-1).Draw(t, "seconds"),
			})
		}
		if rapid.Bool().Draw(t, "dvpn") {
			m.Peer = &WireGuardPeer{PublicKey: drawKey(t, "key"), Endpoint: drawHost(t) + ":51820"}
			if rapid.Bool().Draw(t, "v4") {
				m.Peer.IPv4 = netip.AddrFrom4([4]byte(drawBytes(t, 4, "IPv4")))
			}
			if rapid.Bool().Draw(t, "v6") {
				m.Peer.IPv6 = netip.AddrFrom16([16]byte(append([]byte{0xFD}, drawBytes(t, 15, "IPv6")...)))
			}
		}
		if got, err := ParseRegisterResult(m.Append(nil)); err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%+v, %v; want %+v", got, err, m)
		}
	})
}

// TestUnknownKeysAreSkipped parses a Register with further keys of every allowed kind, in no order and with
// numbers longer than they need be.
//
// Shows R9.8.
func TestUnknownKeysAreSkipped(t *testing.T) {
	var b []byte
	b = appendHead(b, cborMap, 9)
	b = appendTextField(b, "a", "text")
	b = append(appendText(b, "timestamp"), 0x1B, 0, 0, 0, 0, 0, 0, 0, 7)
	b = appendBytesField(b, "b", []byte{1})
	b = append(appendText(b, "c"), 0x82, 0x20, 0x81, 0xA1, 0x61, 'k', 0x00) // [-1, [{"k": 0}]]: four levels
	b = append(appendText(b, "d"), cborNull)
	b = append(appendText(b, "e"), cborTrue)
	b = append(append(b, 0x78, 4), "mode"...) // a length in two bytes
	b = appendText(b, "relay")
	b = append(appendText(b, "f"), 0xA0)
	b = append(appendText(b, ""), 0x80)
	got, err := ParseRegister(append([]byte{5, 0, 0, 0}, b...))
	if want := (Register{RequestID: 5, Mode: ModeRelay, Timestamp: 7}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

// TestRegisterIDOfMalformedRegister checks that every malformed Register of the vectors with a whole id has
// one to be answered under.
func TestRegisterIDOfMalformedRegister(t *testing.T) {
	for _, v := range loadVectors(t).Negative {
		if v.Message != "Register" || v.Name == "3 bytes" || v.Name == "request id 0" || v.Name == "8193 bytes" {
			continue
		}
		if id, err := RegisterID(v.Content); err != nil || id != 1 {
			t.Errorf("%s: id %d, %v", v.Name, id, err)
		}
	}
}

// TestRegisterWithTokenIsOnePart checks the size of the largest Register that clients send.
//
// Shows R9.7.
func TestRegisterWithTokenIsOnePart(t *testing.T) {
	const tokenSize = 2 + 32 + 32 + 32 + 256
	m := Register{RequestID: 1, Mode: ModeDVPN, Timestamp: 1_800_000_000, TicketType: TicketBlindRSA2048,
		Credential: make([]byte, tokenSize), WGPublicKey: make([]byte, 32), WGProof: make([]byte, WGProofSize)}
	if n := len(m.Append(nil)); n != 499 {
		t.Errorf("%d bytes, want 499", n)
	}
}

// TestAppendixARegistration finds the vectors in appendix A of PROTOCOL.md.
func TestAppendixARegistration(t *testing.T) {
	text, err := os.ReadFile("../../transport/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	appendix := strings.Join(strings.Fields(string(text)), "")
	found := 0
	for _, v := range loadVectors(t).Vectors {
		want := hex.EncodeToString(v.Content)
		switch v.Message + " " + v.Name {
		case "Register mode dvpn with a token, 499 bytes":
			sum := blake3.Sum256(v.Content)
			want = hex.EncodeToString(sum[:])
		case "Register mode relay", "RegisterResult ticket needed", "RegisterResult mode dvpn", "RegisterResult unasked, used up":
		default:
			continue
		}
		found++
		if !strings.Contains(appendix, want) {
			t.Errorf("%s, %s: no %s", v.Message, v.Name, want)
		}
	}
	if found != 5 {
		t.Errorf("%d vectors", found)
	}
}

// TestRegisterErrorIsCut appends a longer error text than a result may have.
func TestRegisterErrorIsCut(t *testing.T) {
	m := RegisterResult{Code: CodeBusy, Error: bytes.Repeat([]byte("ä"), 100)}
	got, err := ParseRegisterResult(m.Append(nil))
	if err != nil || len(got.Error) != MaxDetail {
		t.Errorf("%d bytes, %v", len(got.Error), err)
	}
}

func drawHost(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a.example", "192.0.2.1", "[2001:db8::1]", "xn--bcher-kva.example"}).Draw(t, "host")
}

// TestHostsOfResults checks the texts that a gateway may send as hosts.
func TestHostsOfResults(t *testing.T) {
	for s, want := range map[string]bool{
		"issuer.example": true, "issuer.example:8443": true, "127.0.0.1:8080": true, "[::1]": true, "[::1]:8080": true, "192.0.2.1": true,
		"": false, "::1": false, "[fe80::1%eth0]": false, "a b": false, "a\nPostUp = x": false, "a:0": false, "a:65536": false, "a:1:2": false,
		"[192.0.2.1]": false, "[::1": false, "a.example:": false, "user@a.example": false, "1.2": false,
	} {
		if isHost(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}

func TestRegisterCodeString(t *testing.T) {
	checkWords(t, 0, 14, "code ", func(i uint8) string { return RegisterCode(i).String() })
}
