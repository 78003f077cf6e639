package wire

import (
	"testing"
)

func TestParseInner(t *testing.T) {
	hello := Finish((&ClientHello{ReceiverIdx: 0xAABBCCDD}).Append(Begin(nil, 0, LevelClear, 0, TypeClientHello)))
	change := func(offset int, b byte) []byte {
		p := append([]byte(nil), hello...)
		p[offset] = b
		return p
	}
	for _, row := range []struct {
		name  string
		p     []byte
		idx   uint32
		hello bool
		err   error
	}{
		{"a hello", hello, 0xAABBCCDD, true, nil},
		{"a hello of another version", change(12, 7), 0xAABBCCDD, true, nil},
		{"a sealed packet", Finish(Begin(nil, 7, LevelTransport, 3, TypePing)), 7, false, nil},
		{"another clear packet", Finish(Begin(nil, 7, LevelClear, 0, TypeKKTRequest)), 7, false, nil},
		{"a hello for index 0", Finish((&ClientHello{}).Append(Begin(nil, 0, LevelClear, 0, TypeClientHello))), 0, false, ErrIndex},
		{"a hello without content", Finish(Begin(nil, 0, LevelClear, 0, TypeClientHello)), 0, false, ErrShort},
		{"index 0 with another type", change(16, byte(TypeKKTRequest)), 0, false, ErrBootstrap},
		{"index 0, sealed", change(11, 0), 0, false, ErrBootstrap},
		{"index 0, reserved bytes", change(13, 1), 0, false, ErrBootstrap},
		{"level 3", change(11, 0xC0), 0, false, ErrLevel},
		{"level 1 with a sequence", Finish(Begin(nil, 7, LevelHandshake, 1, TypeHandshake)), 0, false, ErrSequence},
		{"33 bytes", hello[:33], 0, false, ErrShort},
	} {
		idx, isHello, err := ParseInner(row.p)
		if idx != row.idx || isHello != row.hello || err != row.err {
			t.Errorf("%s: %#x, %v, %v", row.name, idx, isHello, err)
		}
	}
}

func FuzzParseInner(f *testing.F) {
	v := loadVectors(f)
	for _, r := range v.Vectors {
		f.Add([]byte(r.Packet))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		idx, hello, err := ParseInner(p)
		if err != nil {
			if idx != 0 || hello || !isNamed(err) {
				t.Fatalf("%#x, %v, %v", idx, hello, err)
			}
			return
		}
		// It claims the index that everything else routes it by.
		if routed, ok := ReceiverIdx(p); !ok || routed != idx || idx == 0 {
			t.Fatalf("claims %#x, is routed by %#x, %v", idx, routed, ok)
		}
	})
}
