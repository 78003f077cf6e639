package state

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/kkt"
	"lewes/crypto/noise"
	"lewes/crypto/psq"
	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/wire"
)

// The key schedule against appendix A of PROTOCOL.md: one handshake and one
// subsession with all that is random fixed.

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhex32(t *testing.T, s string) [32]byte { return [32]byte(unhex(t, s)) }

func all32(b byte) [32]byte { return [32]byte(bytes.Repeat([]byte{b}, 32)) }

// equalHex compares with a value of the appendix.
func equalHex(t *testing.T, name string, got []byte, want string) {
	t.Helper()
	if hex.EncodeToString(got) != want {
		t.Errorf("%s = %x, want %s", name, got, want)
	}
}

func appendixIdentities() (gateway, client *identity.PrivateKey) {
	g, c := all32(0x11), all32(0x22)
	return identity.FromSeed(&g), identity.FromSeed(&c)
}

// appendixHello is the hello of the appendix, for the KEM.
func appendixHello(id kem.ID) wire.ClientHello {
	e := noise.KeyPairFrom(all32(0x44))
	commitment := kdf.Hash(e.Public[:])
	return wire.ClientHello{ReceiverIdx: 0x01020304, Salt: wire.NewSalt(1_800_000_000, &commitment), AEADOffer: 3, KEM: uint8(id)}
}

// Shows R4.1, R5.1.
func TestAppendixHelloAndTranscript(t *testing.T) {
	gateway, _ := appendixIdentities()
	public := gateway.Public()
	for _, c := range []struct {
		id      kem.ID
		seed    []byte
		T       string
		request string
	}{
		{kem.MLKEM768, bytes.Repeat([]byte{0x33}, 64), "5be1e20687ed0b3f3b98a613c9faacff52f056630111e13a541687916e9b8f04", "1002010000000075824a003b62b91ae9bfcbc674c1503d"},
		{kem.XWing, bytes.Repeat([]byte{0x33}, 32), "e89e612213d6ed867d821a38d21affae9ae9b44c594c988280ee73100086fe5c", ""},
		{kem.X25519, bytes.Repeat([]byte{0x33}, 32), "5614a256fa10e4448095055d5835f6dc2d114f952290e0323132edf2d83b6b73", ""},
	} {
		pair, err := kem.FromSeed(c.id, c.seed)
		if err != nil {
			t.Fatal(err)
		}
		m := appendixHello(c.id)
		hello := m.Hello()
		sum := kdf.Hash(hello[:])
		sid := kkt.SessionID(sum[:16])
		request := kkt.AppendRequest(nil, c.id, sid)
		response := kkt.AppendResponse(nil, c.id, pair.Public(), sid, gateway)
		transcript := transcript(public[:], hello[:], request, response)
		equalHex(t, c.id.String()+": T", transcript[:], c.T)
		if c.request != "" {
			equalHex(t, "KKT request", request, c.request)
			equalHex(t, "hello", hello[:], "0403020100d2496b00000000ae7c35e07437e42466e5130c83f09586ed71c310e7c7f546030100000000")
		}
	}
	// Where KKT was skipped, T ends with two lengths of zero.
	m := appendixHello(kem.MLKEM768)
	hello := m.Hello()
	want := kdf.Hash([]byte("lewes/2 transcript"), public[:], hello[:], make([]byte, 8))
	if got := transcript(public[:], hello[:], nil, nil); got != want {
		t.Errorf("T without KKT = %x, want %x", got, want)
	}
}

// Shows R5.10, R5.11, R5.12.
func TestAppendixHandshakeKeys(t *testing.T) {
	gateway, client := appendixIdentities()
	clientPrivate, clientPublic := client.X25519()
	gatewayPrivate, gatewayPublic := gateway.X25519()
	ecdh, err := noise.DH(&clientPrivate, &gatewayPublic)
	if err != nil {
		t.Fatal(err)
	}
	equalHex(t, "ecdh", ecdh[:], "e4f89e666efa723bce776c3df12d9313a2416965d9acc2279388230b8a136262")
	T := unhex32(t, "5be1e20687ed0b3f3b98a613c9faacff52f056630111e13a541687916e9b8f04")
	kpq := unhex32(t, "85dea7c654829b143affbc0b8cc7837bdbba9ac3e239a6d3ffbd0191f3e1fc42")
	psqPSK := unhex32(t, "f112395cb5f64ffeb1237616bafdc13bcbdc88acc5c2712f52e4c5eb5181d756")
	hello := appendixHello(kem.MLKEM768)
	ack := (&wire.Ack{AEAD: uint8(seal.AES256GCM), KEM: 1, Nonce: [16]byte(bytes.Repeat([]byte{0x66}, 16))}).Append(nil)
	psk := handshakePSK(&ecdh, &psqPSK, &hello.Salt, &T, ack)
	equalHex(t, "psk", psk[:], "705b7a89f8b1eb0cd2dfa5b26211941d68532059c4043291fd59a36cb989c87a")
	c2g, g2c := handshakeKeys(&psk)
	equalHex(t, "hk_c2g", c2g[:], "4744c217845ff2dd865df594947068af666eb821b8c57ec936cd5ef62a5b9804")
	equalHex(t, "hk_g2c", g2c[:], "87dcb639457cc7c54e0afcca2c7322ac783ac672e4b1c48e6088ff0aa6288276")

	// The Noise messages, with the payloads of the appendix.
	responder := unhex(t, "d530a0b3eb8830d3f42dd0a0b9eeb097101fbdbaba11695bea93f694201b85a081")
	x := noise.NewXKInitiator(noisePrologue(&T), noise.KeyPair{Private: clientPrivate, Public: clientPublic}, noise.KeyPairFrom(all32(0x44)), gatewayPublic)
	first, err := x.WriteMessage1([]byte("stands for InitiatorMsg"))
	if err != nil {
		t.Fatal(err)
	}
	r := noise.NewXKResponder(noisePrologue(&T), noise.KeyPair{Private: gatewayPrivate, Public: gatewayPublic})
	if _, err := r.ReadMessage1(first); err != nil {
		t.Fatal(err)
	}
	second, err := r.WriteMessage2(noise.KeyPairFrom(all32(0x77)), responder)
	if err != nil {
		t.Fatal(err)
	}
	if payload, err := x.ReadMessage2(second); err != nil || !bytes.Equal(payload, responder) {
		t.Fatalf("message 2: %x, %v", payload, err)
	}
	equalHex(t, "e of message 2", second[:32], "1cf579aba45a10ba1d1ef06d91fca2aa9ed0a1150515653155405d0b18cb9a67")

	split := noise.Split{
		InitiatorToResponder: unhex32(t, "4ed48cb8effa56ae0c8b52aaeb9de9a74c651a4241d1ea9242ba495ef43427b3"),
		ResponderToInitiator: unhex32(t, "b0c15e5f22f04dcd1c8ce831df96f08488a2505f916012cfb90fab4a04335ccd"),
		Hash:                 unhex32(t, "2e2635d3ab57a26ed8de8bef7eabed71bf2e926e1683610bdb82df4d87f42a45"),
	}
	got := deriveFirst(&split, &psk, &kpq)
	equalHex(t, "tk_c2g", got.keys.c2g[:], "a09300b086c26c978715837a9d97c75edbf2caffb45965e72269a969a7465401")
	equalHex(t, "tk_g2c", got.keys.g2c[:], "80d3440c998937e2ac74324ac1faf692c4e2c3026d699f1722adb1c204d74334")
	equalHex(t, "binding", got.keys.binding[:], "5ed943d24f5dc90984c72916db1820c1ac01f4e4dfdbc9817bea3d8d082dafc5")
	equalHex(t, "exporter", got.exporter[:], "f2de4936951be6719d96a95212709ac5656f1eadfc9cb5cfcbb695367a2f2fde")
	equalHex(t, "seed_0", got.seed[:], "4219f7282ed6caefaf41a83eed2ef8e7333f20e04235e3312ccdaf82629ebe55")
	if psk != [32]byte{} || split != (noise.Split{}) {
		t.Error("psk or Noise's keys are not wiped")
	}
}

// Shows R5.10, R5.11.
func TestAppendixHandshakePackets(t *testing.T) {
	for _, c := range []struct{ name, key, message, packet string }{
		{
			"Handshake 2", "87dcb639457cc7c54e0afcca2c7322ac783ac672e4b1c48e6088ff0aa6288276",
			"1cf579aba45a10ba1d1ef06d91fca2aa9ed0a1150515653155405d0b18cb9a6704d9b840d0bc4678e15829b7dd14ef006df0932a0d05ea7d997dfedb522f0d958827095230ce3c9f4fd248a61d3dbe3a06",
			"040302010000000000000040f6eb7a454c5eff48a75bc129c943e4816e0cc86e3832e1ec5d3728172b9ba2f3011b52db19cd1b97dccdd0d7a73d60bb135af9c8061c2eb0466fc71b8e6d713ef172060ced99861a9ad48cb7c4e330b736a98a8b94f8bb02146535d4fc8e329213823f8da9ab182549aa67c0",
		},
		{
			"Handshake 3", "4744c217845ff2dd865df594947068af666eb821b8c57ec936cd5ef62a5b9804",
			"95ca69467d428992679560b44c551a75dba448ef747ca2ffe657c96a467241de37e17ff44f97a4c4a5a91195f17914872beae17be074e95a082b24e21cfb4209",
			"0403020100000000000000407e210fdef3f6830fdfa58dbbaaaf67cda31617bd518777d74ca5bb9570284dbcf439920b7e9933990ee9ab61421add38e4c4ce3184341bf679afeb13076613e78b25d61974c884fda697a50167e41c2088dd5bc0d2fdc06e3ea84b",
		},
	} {
		key := unhex32(t, c.key)
		equalHex(t, c.name, sealHandshake(seal.AES256GCM, &key, 0x01020304, unhex(t, c.message)), c.packet)
		body, err := seal.NewKey(seal.AES256GCM, &key).Open(unhex(t, c.packet))
		if err != nil {
			t.Fatalf("%s does not open: %v", c.name, err)
		}
		if m, err := handshakeMessage(body, wire.ToClient); err != nil || hex.EncodeToString(m) != c.message {
			t.Errorf("%s holds %x, %v", c.name, m, err)
		}
	}
}

// Shows R7.1, R7.2.
func TestAppendixSubsession(t *testing.T) {
	seed := unhex32(t, "4219f7282ed6caefaf41a83eed2ef8e7333f20e04235e3312ccdaf82629ebe55")
	binding := unhex32(t, "5ed943d24f5dc90984c72916db1820c1ac01f4e4dfdbc9817bea3d8d082dafc5")
	psk := subsessionPSK(&seed, 1)
	equalHex(t, "psk", psk[:], "b77f402cea54e5865772d72459e1b21955139fd9d7591c14e48f4dbc9c4787a2")

	gateway, client := appendixIdentities()
	clientPrivate, clientPublic := client.X25519()
	gatewayPrivate, gatewayPublic := gateway.X25519()
	prologue := subsessionPrologueFor(1, &binding)
	pair, err := kem.FromSeed(kem.MLKEM768, bytes.Repeat([]byte{0x99}, 64))
	if err != nil {
		t.Fatal(err)
	}
	kk := noise.NewKKInitiator(prologue, noise.KeyPair{Private: clientPrivate, Public: clientPublic}, noise.KeyPairFrom(all32(0x88)), gatewayPublic, &psk)
	first, err := kk.WriteMessage1(pair.Public())
	if err != nil {
		t.Fatal(err)
	}
	kk1 := (&wire.SubsessionKK1{Generation: 1, Noise: first}).Append(nil)
	sum := kdf.Hash(kk1)
	equalHex(t, "HASH(KK1)", sum[:], "6eceb8a59428eb708c189f5ce8dcc38882d02142b02b21e5476da27dd8320bd3")
	if len(kk1) != 1236 || len(parts.Split(kk1, parts.MaxData)) != 2 {
		t.Errorf("KK1 has %d bytes", len(kk1))
	}
	responder := noise.NewKKResponder(prologue, noise.KeyPair{Private: gatewayPrivate, Public: gatewayPublic}, clientPublic, &psk)
	if _, err := responder.ReadMessage1(first); err != nil {
		t.Fatal(err)
	}

	s := rekeySecrets{
		split: noise.Split{
			InitiatorToResponder: unhex32(t, "02ca91bd6fb335b3fae31e0e063ffb2155b4ae463a4fa8f5b328d18aa5b6b7f7"),
			ResponderToInitiator: unhex32(t, "cbf679b943481066e956b769d939c45c5829fcf2f216cb741a7fe83d7b16a5a1"),
			Hash:                 unhex32(t, "2e1ca9bd112acf5e56004b4bba6e7fd6142a2ac426c9115ed2f8d12e9b576abf"),
		},
		psk: psk,
		ss:  unhex32(t, "e3866617aee599e75b67bfbb66d165037575bd11ced26e84810d356ec9ac1f62"),
	}
	keys := s.child(0x05060708)
	equalHex(t, "tk_c2g", keys.c2g[:], "82a0e39e4737449922c0d73946f67270dfbf8ad12485862dceb6781f7be1233c")
	equalHex(t, "tk_g2c", keys.g2c[:], "5458b0011caf8c5100067624418f5a48f56c98625c119d9633851e43ae24d2e5")
	equalHex(t, "binding", keys.binding[:], "f285518d7c5f01d816120163e681656634cb4b9b43702b2790914f80371a05d8")
	next := s.nextSeed(&seed)
	equalHex(t, "seed_1", next[:], "4a9af7ec3af443c6659f15b3b395056c4c4e044975fd97396d32c246d3bbaf78")
	// Another index makes other keys, and the same next seed.
	if other := s.child(0x05060709); other.c2g == keys.c2g || other.g2c == keys.g2c || other.binding == keys.binding {
		t.Error("the index of a child does not go into its keys")
	}

	// SubsessionReady is the first packet on the child.
	session := &Session{role: RoleClient, suite: seal.AES256GCM, config: &SessionConfig{}, keys: keyRing{current: &KeySet{}}}
	session.migration.active.set(gatewayAt)
	child := newKeySet(session, 1, 0x05060708, &keys)
	var out Output
	session.sendOn(child, wire.TypeSubsessionReady, &wire.SubsessionReady{Generation: 1}, &out)
	equalHex(t, "SubsessionReady", out.Packets[0].Data, "080706050000000000000000add639fd62db1024e67e9089b5b5508f49e93a97dd704f19da44")
}

// Shows R4.1.
func TestHellosAreFresh(t *testing.T) {
	indexes, salts := map[uint32]bool{}, map[[32]byte]bool{}
	for seed := range uint64(50) {
		c := newClientEnd(t, epoch.Add(time.Duration(seed)*time.Second), clientConfig(seed))
		i := c.client.attempts[0]
		commitment := kdf.Hash(i.ephemeral.Public[:])
		if i.hello.Seconds() != uint64(epoch.Unix())+seed || !bytes.Equal(i.hello.Salt[8:], commitment[:24]) || i.index == 0 {
			t.Errorf("salt %x, index %d", i.hello.Salt, i.index)
		}
		indexes[i.index], salts[i.hello.Salt] = true, true
	}
	if len(indexes) != 50 || len(salts) != 50 {
		t.Errorf("%d indexes and %d salts in 50 hellos", len(indexes), len(salts))
	}
}

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
