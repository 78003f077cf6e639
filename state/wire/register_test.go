package wire

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestRegisterRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Uint32().Draw(t, "id")
		cbor := rapid.SliceOfN(rapid.Byte(), 0, 500).Draw(t, "cbor")
		result := RegisterResult{id, cbor}
		if got, err := ParseRegisterResult(result.Append(nil)); err != nil || got.RequestID != id || !bytes.Equal(got.CBOR, cbor) {
			t.Fatalf("%+v, %v; want %+v", got, err, result)
		}
		register := Register{id, cbor}
		got, err := ParseRegister(register.Append(nil))
		if id == 0 {
			if err != ErrRequestID {
				t.Fatalf("request id 0: %v", err)
			}
			return
		}
		if err != nil || got.RequestID != id || !bytes.Equal(got.CBOR, cbor) {
			t.Fatalf("%+v, %v; want %+v", got, err, register)
		}
	})
}

func FuzzRegister(f *testing.F)       { fuzz(f, "Register") }
func FuzzRegisterResult(f *testing.F) { fuzz(f, "RegisterResult") }
