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

// The two indexes of the appendix: of the handshake up to Handshake 2, and of the session.
const (
	appendixAttempt     = 0x01020304
	appendixReceiverIdx = 0x0a0b0c0d
)

// appendixHello is the hello of the appendix, for the KEM.
func appendixHello(id kem.ID) wire.ClientHello {
	e := noise.KeyPairFrom(all32(0x44))
	commitment := kdf.Hash(e.Public[:])
	return wire.ClientHello{Attempt: appendixAttempt, Salt: wire.NewSalt(1_800_000_000, &commitment), AEADOffer: 3, KEM: uint8(id)}
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
		{kem.MLKEM768, bytes.Repeat([]byte{0x33}, 64), "4fee592860f22bd81808a87ee7049233fe34e850d89a7234f7750b39b83b3907", "10020100000000e3c604d777de06c4ea9c58c25fc80121"},
		{kem.XWing, bytes.Repeat([]byte{0x33}, 32), "949ab628cfeaeca82939dac438aa1232fc8eab5a0f22f13b46263f03ed1a3c79", ""},
		{kem.X25519, bytes.Repeat([]byte{0x33}, 32), "097d8639ce39eed3edbd737e0c89e054a56e4fd575f61cf06d203227fb27f915", ""},
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
			equalHex(t, "hello", hello[:], "0403020100d2496b00000000ae7c35e07437e42466e5130c83f09586ed71c310e7c7f54603010000000000000000")
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
	T := unhex32(t, "4fee592860f22bd81808a87ee7049233fe34e850d89a7234f7750b39b83b3907")
	kpq := unhex32(t, "c9c2d6c99ac7d72b2930a7ff9b78dfb52199b49f68e5237a56c1d0ef0bf40ee4")
	psqPSK := unhex32(t, "0c875ca01d4a2697a756cd663505497c68dfaec13270b7fa966e9f0792aef64e")
	hello := appendixHello(kem.MLKEM768)
	ack := (&wire.Ack{AEAD: uint8(seal.AES256GCM), KEM: 1, Nonce: [16]byte(bytes.Repeat([]byte{0x66}, 16)), ReceiverIdx: appendixReceiverIdx}).Append(nil)
	psk := handshakePSK(&ecdh, &psqPSK, &hello.Salt, &T, ack)
	equalHex(t, "psk", psk[:], "f398b6819be8a24e78d851b3180c16ef06355831c0b416703c637d3e79ad35d6")
	c2g, g2c := handshakeKeys(&psk)
	equalHex(t, "hk_c2g", c2g[:], "901d6cda495e79896f3b1511cfaf7697a3d040f56ac5d3b4ad683b61e90fa081")
	equalHex(t, "hk_g2c", g2c[:], "21662c0c35b3f5516f085689b1da788cdb9ee7eae84ab964bd792dbf0ab827ba")

	// The Noise messages, with the payloads of the appendix.
	responder := unhex(t, "8f8a17faec7d9416e31a92473032b922101acce42b521545549041c31e555452b3")
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
		InitiatorToResponder: unhex32(t, "7480700d8e5c31a71e135a0ddbc3fc0d0e1f9202686c5d893f2ef0495cc06bb0"),
		ResponderToInitiator: unhex32(t, "4c59cbe038debfa23156a686d27924c388efa2b57436bab5f9062679c554cbab"),
		Hash:                 unhex32(t, "2b595100b705fae17390efaf3d85ddcfa3aaaba4e1bb0c0ae16aff4806206c63"),
	}
	got := deriveFirst(&split, &psk, &kpq)
	equalHex(t, "tk_c2g", got.keys.c2g[:], "e5a7464a1b00a178e32da6c06450fc0e16749ff057af661419d77817d724fb92")
	equalHex(t, "tk_g2c", got.keys.g2c[:], "c3a9a4ba25684f8562110682b14e9b108d86de6407622180c751d17f28360a24")
	equalHex(t, "binding", got.keys.binding[:], "cc40d2fa338dcc259dbbb9004c06829f12fb148de3157ec3b38cc4a58a06a4ed")
	equalHex(t, "exporter", got.exporter[:], "91837ae00e2c0041005d93c5f48e25a777a5dcc3e63e8ef5ae077607cc9d656b")
	equalHex(t, "seed_0", got.seed[:], "4afa0b59f107a03e0a32cf9db5c6fc8028d5c2127f9447a70dafe08a97dc0763")
	if psk != [32]byte{} || split != (noise.Split{}) {
		t.Error("psk or Noise's keys are not wiped")
	}
}

// Shows R5.10, R5.11.
func TestAppendixHandshakePackets(t *testing.T) {
	for _, c := range []struct {
		name                 string
		index                uint32
		key, message, packet string
	}{
		{
			"Handshake 2", appendixAttempt, "21662c0c35b3f5516f085689b1da788cdb9ee7eae84ab964bd792dbf0ab827ba",
			"1cf579aba45a10ba1d1ef06d91fca2aa9ed0a1150515653155405d0b18cb9a675e630f09d749e2bdf66f6b5054c8e6b56df5e2749c469663277e498c6c61dc67ba0c5eec42a542d5242f35932e8582e6fe",
			"0403020100000000000000407e7f65a71289a003cb02da0e220ef4781a3f5d2fd0d1bb11fdf237361e2f1f8109d96af13da9c0d5e3176b84001afc4d6379b58316be4ff5b785a94f85e7cfbd9c86f329411b5a11851f8d794514a61333f89d49ca310856d281e776f5c5911b20c8be8ce4cd0888f1a31e78",
		},
		{
			"Handshake 3", appendixReceiverIdx, "901d6cda495e79896f3b1511cfaf7697a3d040f56ac5d3b4ad683b61e90fa081",
			"95ca69467d428992679560b44c551a75dba448ef747ca2ffe657c96a467241dee49835614a0b37564b00ae8b5a526c532ca47d6800d67278807c889b5ddcbc2e",
			"0d0c0b0a000000000000004051210c0d5b969b26a3ffc744f56cb1d28f6660904ded12b6a4f167f3ade5882f9d9ce870d632a5521a64637a0ee35aff2a4ae0625092b15a83686a2b392a704f6aad4fc6649e3990886c1a4c0c9c6730a11d87d9094d11dbfd986e",
		},
	} {
		key := unhex32(t, c.key)
		equalHex(t, c.name, sealHandshake(seal.AES256GCM, &key, c.index, unhex(t, c.message)), c.packet)
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
	seed := unhex32(t, "4afa0b59f107a03e0a32cf9db5c6fc8028d5c2127f9447a70dafe08a97dc0763")
	binding := unhex32(t, "cc40d2fa338dcc259dbbb9004c06829f12fb148de3157ec3b38cc4a58a06a4ed")
	psk := subsessionPSK(&seed, 1)
	equalHex(t, "psk", psk[:], "b81ae134e77370ddd80f479703fd677b37a6e427f506a4db13c0d8c05003b533")

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
	equalHex(t, "HASH(KK1)", sum[:], "1f8d2ea000a73cd5dfb2029b4c39a21a19ebfdd5f34d599e48fccdca551403f2")
	if len(kk1) != 1236 || len(parts.Split(kk1, parts.MaxData)) != 2 {
		t.Errorf("KK1 has %d bytes", len(kk1))
	}
	responder := noise.NewKKResponder(prologue, noise.KeyPair{Private: gatewayPrivate, Public: gatewayPublic}, clientPublic, &psk)
	if _, err := responder.ReadMessage1(first); err != nil {
		t.Fatal(err)
	}

	s := rekeySecrets{
		split: noise.Split{
			InitiatorToResponder: unhex32(t, "18ce570daab62ae5d51f5bdb4530a0e8caf0a10f3d2732892b955a944cce7188"),
			ResponderToInitiator: unhex32(t, "f811c122f0805e7130a4e8b32004cc1c4aa09c26419caf8ecbfcbe83a16c8f30"),
			Hash:                 unhex32(t, "21967ec995a79c0b4ddc3f2311c6db6acaebd69fa965b295bbae4c8cbe45eadf"),
		},
		psk: psk,
		ss:  unhex32(t, "e3866617aee599e75b67bfbb66d165037575bd11ced26e84810d356ec9ac1f62"),
	}
	keys := s.child(0x05060708)
	equalHex(t, "tk_c2g", keys.c2g[:], "da15b76d81d8b1d5eb6e835e01bed3e936185f9cac5837c650107a3e8c8285e0")
	equalHex(t, "tk_g2c", keys.g2c[:], "7aab248f73a64122ba3d6d97b20f82b2245f3d5d7a10b78d0a81f947a09a0462")
	equalHex(t, "binding", keys.binding[:], "55b4d0e8f48991945219c9647042635e8e49811857b012dd93318b3eec81aad8")
	next := s.nextSeed(&seed)
	equalHex(t, "seed_1", next[:], "aa522e235b8b03f76591378284945e7cd09776b215d8e4546d1fdf6af1d953e5")
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
	equalHex(t, "SubsessionReady", out.Packets[0].Data, "08070605000000000000000090551b4223351d5aca418877b0251f0f5e1fa9edab9f4218682e")
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
			"4fee592860f22bd81808a87ee7049233fe34e850d89a7234f7750b39b83b3907",
			"c9c2d6c99ac7d72b2930a7ff9b78dfb52199b49f68e5237a56c1d0ef0bf40ee4",
			"6949f2cbae5ef35347552c54025522e285c17f3f70f21468f1f2a882e83c5d04",
			"f398b6819be8a24e78d851b3180c16ef06355831c0b416703c637d3e79ad35d6",
			"e5a7464a1b00a178e32da6c06450fc0e16749ff057af661419d77817d724fb92", 1313,
		},
		{
			kem.XWing, bytes.Repeat([]byte{0x33}, 32), append(bytes.Repeat([]byte{0x55}, 32), bytes.Repeat([]byte{0x5a}, 32)...),
			"949ab628cfeaeca82939dac438aa1232fc8eab5a0f22f13b46263f03ed1a3c79",
			"c76b483e562980f419bcb611701b7489522567a4e6da8dc5de1ff2fb2435383c",
			"66a90ec33368a1d5168f013955a56058213f709c2e8883e404640da1cd70c89a",
			"c2e0ace4042b1c91789f05e7b14dc695b1818adafa1f7993f019b9b7239b993e",
			"6eeddbe0bece6760f238a701b9210d9454032dd11023890e7ae08eb94ba03a97", 1345,
		},
		{
			kem.X25519, bytes.Repeat([]byte{0x33}, 32), bytes.Repeat([]byte{0x55}, 32),
			"097d8639ce39eed3edbd737e0c89e054a56e4fd575f61cf06d203227fb27f915",
			"6775f8fd3ed614a04cb8ebf13e629dc202b5e345407fff3909238f22aab072ab",
			"108d93be1f87feecf9b1151b411fc62a736688deb8ae7864d72a83ea3088d317",
			"ffff0fe7e7e914bf1f777d36708566595b2659db83217b5eaa07052cee54e1b8",
			"076fd69bdb7713572c33f714612a18f1c414ce00e6c90f8225be76ade8dfb5f2", 255,
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
			ack := (&wire.Ack{AEAD: uint8(seal.AES256GCM), KEM: uint8(c.id), Nonce: [16]byte(bytes.Repeat([]byte{0x66}, 16)), ReceiverIdx: appendixReceiverIdx}).Append(nil)

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
	if len(packet) != 1000 || !bytes.Equal(packet[18:18+wire.HelloSize], unhex(t, "0403020100d2496b00000000ae7c35e07437e42466e5130c83f09586ed71c310e7c7f54603010000000000000000")) {
		t.Errorf("a ClientHello of %d bytes, %x…", len(packet), packet[:18+wire.HelloSize])
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
			"EncryptedData", "e5a7464a1b00a178e32da6c06450fc0e16749ff057af661419d77817d724fb92",
			"0d0c0b0a0000000000000000b400b92837e2172016e6de1af9127c2c5eb604fdd0d4d17f8b8daba1ba904c80ce7e7db741",
			wire.TypeEncryptedData, &data,
		},
		{
			"Ack", "c3a9a4ba25684f8562110682b14e9b108d86de6407622180c751d17f28360a24",
			"0d0c0b0a0000000000000000cfede4508153f14d88b3569f20f459dba81827a6b4dede6e7c2346a0f51846139dea",
			wire.TypeAck, &ack,
		},
	} {
		key := unhex32(t, c.key)
		s := Sender{index: appendixReceiverIdx, key: seal.NewKey(seal.AES256GCM, &key)}
		p := unsealed(0, wire.LevelTransport, c.kind, c.m)
		if err := s.Seal(p); err != nil {
			t.Fatal(err)
		}
		equalHex(t, c.name, p, c.want)
	}
}
