package payload

import (
	"testing"

	"pgregory.net/rapid"
)

func TestPutGet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), Size, 2000).Draw(t, "datagram")
		run, at := rapid.Uint32().Draw(t, "run"), rapid.Int64().Draw(t, "time")
		Put(b, run, at)
		if r, a, ok := Get(b); r != run || a != at || !ok {
			t.Fatalf("%d, %d, %v; want %d, %d", r, a, ok, run, at)
		}
	})
}

func FuzzGet(f *testing.F) {
	good := make([]byte, Size)
	Put(good, 7, -1)
	f.Add(good)
	f.Add(good[:Size-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		run, at, ok := Get(b)
		if !ok {
			return
		}
		again := make([]byte, Size)
		Put(again, run, at)
		if string(again) != string(b[:Size]) {
			t.Errorf("%x reads as run %d, time %d, which is %x", b[:Size], run, at, again)
		}
	})
}
