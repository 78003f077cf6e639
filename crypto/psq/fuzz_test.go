package psq

import (
	"bytes"
	"testing"

	"lewes/crypto/internal/vectors"
	"lewes/crypto/kem"
)

// FuzzRespond passes arbitrary bytes to Respond under a key of each KEM. Only the
// authentic message opens.
func FuzzRespond(f *testing.F) {
	exchanges := make([]exchange, len(supported))
	for n, id := range supported {
		exchanges[n] = newExchange(f, id)
		f.Add(exchanges[n].msg)
		f.Add(exchanges[n].msg[:len(exchanges[n].msg)-1])
		f.Add(append(bytes.Clone(exchanges[n].msg), 0))
	}
	f.Add([]byte{})
	for _, row := range vectors.OwnFile[vectorFile](f, "psq_v1.json").Negative {
		f.Add([]byte(row.InitiatorMsg))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, x := range exchanges {
			o, err := Respond(x.kp, testSCtx, msg)
			if (err == nil) != bytes.Equal(msg, x.msg) || (o == nil) != (err != nil) {
				t.Fatalf("%v: %x gave %v, %v", x.kp.ID(), msg, o, err)
			}
		}
	})
}

// FuzzInitiatorMsg overwrites, inserts or removes bytes at one place of a valid
// message. Only the unchanged message opens.
func FuzzInitiatorMsg(f *testing.F) {
	exchanges := make([]exchange, len(supported))
	for n, id := range supported {
		exchanges[n] = newExchange(f, id)
	}
	f.Add(uint8(0), uint16(0), uint16(1), []byte{5})
	f.Add(uint8(1), uint16(1), uint16(2), []byte{0x80, 0, 0x04, 0x40})
	f.Add(uint8(2), uint16(81), uint16(2), []byte{0x80, 0, 0, 124})
	f.Add(uint8(2), uint16(207), uint16(0), []byte{0})
	f.Fuzz(func(t *testing.T, which uint8, at, remove uint16, insert []byte) {
		x := exchanges[int(which)%len(exchanges)]
		from := min(int(at), len(x.msg))
		to := min(from+int(remove), len(x.msg))
		msg := append(append(bytes.Clone(x.msg[:from]), insert...), x.msg[to:]...)
		o, err := Respond(x.kp, testSCtx, msg)
		if (err == nil) != bytes.Equal(msg, x.msg) || (o == nil) != (err != nil) {
			t.Fatalf("%v: %x gave %v, %v", x.kp.ID(), msg, o, err)
		}
	})
}

// FuzzCredential seals arbitrary plaintexts with the right key after a valid mac,
// as a malicious client could. Only the signed one opens, with any ttl.
func FuzzCredential(f *testing.F) {
	x := newExchange(f, kem.X25519)
	m, err := parseInitiatorMsg(kem.X25519, x.msg)
	if err != nil {
		f.Fatal(err)
	}
	seal := x.secrets.sealer(toResponder)
	good, err := seal.open(m.sealed, credentialSize)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:28])
	f.Add(good[:27])
	f.Add(bytes.Repeat([]byte{0xff}, credentialSize))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, plaintext []byte) {
		if len(plaintext) > 4096 {
			return
		}
		o, err := Respond(x.kp, testSCtx, seal.append(bytes.Clone(m.signed), plaintext))
		if err != nil {
			if o != nil {
				t.Fatalf("%x: an error, and %v", plaintext, o)
			}
			return
		}
		if len(plaintext) != credentialSize || !bytes.Equal(plaintext[signatureAt:], good[signatureAt:]) {
			t.Fatalf("%x opened", plaintext)
		}
		again, err := appendCredential(nil, o.Time, plaintext[signatureAt:identityAt], o.Client)
		if err != nil || !bytes.Equal(again[:ttlAt], plaintext[:ttlAt]) {
			t.Fatalf("%x was read as the time %v, which is %x, %v", plaintext, o.Time, again, err)
		}
	})
}

// FuzzOpenResponderMsg passes arbitrary answers to a client.
func FuzzOpenResponderMsg(f *testing.F) {
	s := newExchange(f, kem.X25519).secrets
	good := s.AppendResponderMsg(nil)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(bytes.Clone(good), 0))
	f.Add(s.appendAnswer(nil, make([]byte, HandleSize)))
	f.Add(s.appendAnswer(nil, make([]byte, 100)))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if err := s.OpenResponderMsg(msg); (err == nil) != bytes.Equal(msg, good) {
			t.Fatalf("%x: %v", msg, err)
		}
	})
}
