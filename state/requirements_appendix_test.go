package state

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/kkt"
	"lewes/crypto/noise"
	"lewes/crypto/psq"
	"lewes/crypto/seal"
	"lewes/state/wire"
)

// TestAppendixFromEndToEnd makes the handshake of appendix A with each KEM, every
// value from the one before it: from hello and KKT to the transport keys.
//
// Shows R5.1, R5.10, R5.11, R5.12.
func TestAppendixFromEndToEnd(t *testing.T) {
	gateway, client := appendixIdentities()
	public := gateway.Public()
	clientPrivate, clientPublic := client.X25519()
	gatewayPrivate, gatewayPublic := gateway.X25519()
	ecdh, err := noise.DH(&clientPrivate, &gatewayPublic)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 123*int64(time.Millisecond))
	for _, c := range []struct {
		id                               kem.ID
		seed, random                     []byte
		transcript, kpq, first, psk, c2g string
		size                             int
	}{
		{
			kem.MLKEM768, bytes.Repeat([]byte{0x33}, 64), bytes.Repeat([]byte{0x55}, 32),
			"5be1e20687ed0b3f3b98a613c9faacff52f056630111e13a541687916e9b8f04",
			"85dea7c654829b143affbc0b8cc7837bdbba9ac3e239a6d3ffbd0191f3e1fc42",
			"17cb52ee0cdeb76d9fdb67451cc65ce704d1ca7faa6359fcc7815654c660097e",
			"705b7a89f8b1eb0cd2dfa5b26211941d68532059c4043291fd59a36cb989c87a",
			"a09300b086c26c978715837a9d97c75edbf2caffb45965e72269a969a7465401", 1313,
		},
		{
			kem.XWing, bytes.Repeat([]byte{0x33}, 32), append(bytes.Repeat([]byte{0x55}, 32), bytes.Repeat([]byte{0x5a}, 32)...),
			"e89e612213d6ed867d821a38d21affae9ae9b44c594c988280ee73100086fe5c",
			"bfd98d3a242dce2d995d0eb96e528d34f6c1ad980669e6ffa13c1ffdcacd4efd",
			"34333c99af71c85a74230aec200ecdd7a7a9f9aa687dc1ff4975e84df14334cb",
			"af5943165fa6979908469cadd25d1723f552bb27195e11633feebe73cee151b2",
			"2a73cf6150cd8809c66dba1c8edd9184d78cfb5bca11579142419dbb0eaabc6a", 1345,
		},
		{
			kem.X25519, bytes.Repeat([]byte{0x33}, 32), bytes.Repeat([]byte{0x55}, 32),
			"5614a256fa10e4448095055d5835f6dc2d114f952290e0323132edf2d83b6b73",
			"d4dc5b388ead4ce9b822a9e2aeb4ec572eedf1b306b8aa4986ffcd70e8e00d3c",
			"4fa67beded64edbe6a5a99b4a893d941e2792314a966afa41801c8445a096c9e",
			"80f923b3251c80ce3b136de6212eaf5016094c920d1a49adbd1913c57afe8b6f",
			"9100a42c7f612a036b20644fdcc5f2c8490f4617a903d23bc3967347e25cc1f2", 255,
		},
	} {
		t.Run(c.id.String(), func(t *testing.T) {
			pair, err := kem.FromSeed(c.id, c.seed)
			if err != nil {
				t.Fatal(err)
			}
			m := appendixHello(c.id)
			hello := m.Hello()
			sum := kdf.Hash(hello[:])
			sid := kkt.SessionID(sum[:16])
			T := transcript(public[:], hello[:], kkt.AppendRequest(nil, c.id, sid), kkt.AppendResponse(nil, c.id, pair.Public(), sid, gateway))
			equalHex(t, "T", T[:], c.transcript)
			payload, secrets, err := psq.Initiate(c.id, pair.Public(), T[:], client, now, bytes.NewReader(c.random))
			if err != nil {
				t.Fatal(err)
			}
			equalHex(t, "k_pq", secrets.KPQ[:], c.kpq)
			ack := (&wire.Ack{AEAD: uint8(seal.AES256GCM), KEM: uint8(c.id), Nonce: [16]byte(bytes.Repeat([]byte{0x66}, 16))}).Append(nil)

			x := noise.NewXKInitiator(noisePrologue(&T), noise.KeyPair{Private: clientPrivate, Public: clientPublic}, noise.KeyPairFrom(all32(0x44)), gatewayPublic)
			first, err := x.WriteMessage1(payload)
			if err != nil {
				t.Fatal(err)
			}
			sum = kdf.Hash(first)
			equalHex(t, "HASH(Handshake 1)", sum[:], c.first)
			if len(first) != c.size {
				t.Errorf("Handshake 1 has %d bytes, want %d", len(first), c.size)
			}
			r := noise.NewXKResponder(noisePrologue(&T), noise.KeyPair{Private: gatewayPrivate, Public: gatewayPublic})
			if payload, err = r.ReadMessage1(first); err != nil {
				t.Fatal(err)
			}
			opened, err := psq.Respond(pair, T[:], payload)
			if err != nil {
				t.Fatal(err)
			}
			second, err := r.WriteMessage2(noise.KeyPairFrom(all32(0x77)), opened.Secrets.AppendResponderMsg(nil))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := x.ReadMessage2(second); err != nil {
				t.Fatal(err)
			}
			psk := handshakePSK(&ecdh, &secrets.PSK, &m.Salt, &T, ack)
			equalHex(t, "psk", psk[:], c.psk)
			third, mine, err := x.WriteMessage3(&psk)
			if err != nil {
				t.Fatal(err)
			}
			_, theirs, err := r.ReadMessage3(&psk, third)
			if err != nil {
				t.Fatal(err)
			}
			if *mine != *theirs {
				t.Error("the two ends' keys differ")
			}
			got := deriveFirst(mine, &psk, &secrets.KPQ)
			equalHex(t, "tk_c2g", got.keys.c2g[:], c.c2g)
		})
	}
}

// TestAppendixPackets makes the packets of appendix A that are of one piece: the
// ClientHello, and the first of each direction under the transport keys.
//
// Shows R1.1, R1.7, R1.10, R4.1.
func TestAppendixPackets(t *testing.T) {
	gateway, _ := appendixIdentities()
	mac := cookie.NewMAC1Key(gateway.Public())
	hello := appendixHello(kem.MLKEM768)
	packet := clearPacket(mac, 0, wire.TypeClientHello, padded{&hello, wire.MinHelloDatagram})
	if len(packet) != 1000 || !bytes.Equal(packet[18:60], unhex(t, "0403020100d2496b00000000ae7c35e07437e42466e5130c83f09586ed71c310e7c7f546030100000000")) {
		t.Errorf("a ClientHello of %d bytes, %x…", len(packet), packet[:60])
	}
	equalHex(t, "MAC1 of the ClientHello", packet[len(packet)-16:], "a73ca0500aa52f19676c965d9feee512")

	data := wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(netip.MustParseAddrPort("192.0.2.1:53")), Payload: []byte("lewes")}
	ack := wire.FinalAck{IdleTTLSeconds: 86_400, RekeyAfterSeconds: 900, MaxDatagram: 1500}
	for _, c := range []struct {
		name, key, want string
		kind            wire.Type
		m               message
	}{
		{
			"EncryptedData", "a09300b086c26c978715837a9d97c75edbf2caffb45965e72269a969a7465401",
			"040302010000000000000000fa89d5a57b3b4fcb0cf7cb710144189e4b3ecbeff08a7e3790c0c2201d53cf48b460acff4d",
			wire.TypeEncryptedData, &data,
		},
		{
			"Ack", "80d3440c998937e2ac74324ac1faf692c4e2c3026d699f1722adb1c204d74334",
			"040302010000000000000000e8bd7aaf556a3f913c0fea193bc730264ee531c56468f7ea9e5058a57f005ef37d61",
			wire.TypeAck, &ack,
		},
	} {
		key := unhex32(t, c.key)
		s := Sender{index: 0x01020304, key: seal.NewKey(seal.AES256GCM, &key)}
		p := unsealed(0, wire.LevelTransport, c.kind, c.m)
		if err := s.Seal(p); err != nil {
			t.Fatal(err)
		}
		equalHex(t, c.name, p, c.want)
	}
}
