package wipe_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"fmt"
	"io"
	"reflect"
	"slices"
	"testing"
	"unsafe"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/kem/xwing"
	flynn "github.com/flynn/noise"
	"github.com/zeebo/blake3"
	"golang.org/x/crypto/chacha20poly1305"

	"lewes/crypto/wipe"
)

// secretKey has no zero byte, so that each of its bytes is seen to go.
var secretKey = []byte("0123456789abcdefghijklmnopqrstuv")

// TestDependenciesAreErased builds each structure in which a library keeps a
// secret, collects all memory that reflection reaches from it, and checks that
// Deep zeroes all of it. An upgrade that moves a secret to memory that Deep
// does not reach (a map, a function, a value in an interface) fails on opaque.
func TestDependenciesAreErased(t *testing.T) {
	handshake, transport := noiseStates(t)
	noiseShared := []reflect.Type{
		reflect.TypeFor[flynn.CipherSuite](), reflect.TypeFor[io.Reader](), reflect.TypeFor[[][]flynn.MessagePattern](),
	}
	_, mlkem := mlkem768.NewKeyFromSeed(bytes.Repeat(secretKey, 2))
	hybrid, _ := xwing.DeriveKeyPair(secretKey)
	scalar := x25519.Key(secretKey)
	signer := ed25519.NewKeyFromSeed(secretKey)
	block := must(aes.NewCipher(secretKey))
	blake := must(blake3.NewKeyed(secretKey))
	_, _ = blake.Write(secretKey)

	for _, c := range []struct {
		name   string
		value  any
		plain  bool // the key appears literally
		size   int  // the least number of bytes that must be reached
		shared []reflect.Type
		opaque []string // places without a secret that Deep cannot reach
	}{
		{name: "circl ML-KEM-768", value: mlkem, plain: true, size: 2 * 768 * 2},
		{name: "circl X-Wing", value: hybrid, plain: true, size: 2*768*2 + 32},
		{name: "circl X25519", value: &scalar, plain: true, size: 32},
		{name: "Ed25519", value: &signer, plain: true, size: 64},
		{name: "AES-256", value: block, size: 240},
		{name: "AES-256-GCM", value: must(cipher.NewGCM(block)), size: 240},
		{name: "ChaCha20-Poly1305", value: must(chacha20poly1305.New(secretKey)), plain: true, size: 32},
		{name: "BLAKE3 keyed", value: blake, plain: true, size: 64},
		{
			name: "Noise handshake", value: handshake, plain: true, size: 32 * 8, shared: noiseShared,
			opaque: []string{".ss.CipherState.c.nonce"},
		},
		{
			name: "Noise cipher state", value: transport, size: 64, shared: noiseShared,
			opaque: []string{".c.nonce"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := reach(c.value, c.shared)
			if !slices.Equal(m.opaque, c.opaque) {
				t.Errorf("Deep cannot reach %v, expected %v: check where the library keeps its secrets", m.opaque, c.opaque)
			}
			if all := bytes.Join(m.regions, nil); len(all) < c.size || zero(all) {
				t.Fatalf("%d bytes reachable, expected at least %d: check where the library keeps its secrets", len(all), c.size)
			} else if c.plain && !bytes.Contains(all, secretKey) {
				t.Fatal("the key is not in the memory that was found")
			}
			wipe.Deep(c.value, c.shared...)
			for i, region := range m.regions {
				if !zero(region) {
					t.Errorf("region %d of %d is left: %x", i, len(m.regions), region)
				}
			}
		})
	}
	if len(flynn.HandshakeNN.Messages) != 2 || flynn.HandshakeNN.Messages[1][1] != flynn.MessagePatternDHEE {
		t.Error("the shared handshake pattern was erased")
	}
}

// noiseStates returns a handshake state and the transport state of a finished
// handshake, both with secretKey as static key.
func noiseStates(t *testing.T) (*flynn.HandshakeState, *flynn.CipherState) {
	t.Helper()
	suite := flynn.NewCipherSuite(flynn.DH25519, flynn.CipherChaChaPoly, flynn.HashSHA256)
	var public x25519.Key
	scalar := x25519.Key(secretKey)
	x25519.KeyGen(&public, &scalar)
	state := func(initiator bool) *flynn.HandshakeState {
		return must(flynn.NewHandshakeState(flynn.Config{
			CipherSuite: suite, Pattern: flynn.HandshakeNN, Initiator: initiator,
			StaticKeypair: flynn.DHKey{Private: bytes.Clone(secretKey), Public: public[:]},
			PresharedKey:  bytes.Clone(secretKey), PresharedKeyPlacement: 2,
		}))
	}
	i, r := state(true), state(false)
	m1, _, _, err := i.WriteMessage(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := r.ReadMessage(nil, m1); err != nil {
		t.Fatal(err)
	}
	_, transport, _, err := r.WriteMessage(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return i, transport
}

// memory is what reflection reaches from a value.
type memory struct {
	regions [][]byte // numbers
	opaque  []string // paths of maps, channels, functions, strings and unaddressable values
}

// reach is written apart from Deep, so that a fault of one shows in the other.
func reach(ptr any, shared []reflect.Type) *memory {
	m := new(memory)
	seen := map[unsafe.Pointer]bool{}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		if slices.Contains(shared, v.Type()) {
			return
		}
		switch v.Kind() {
		case reflect.Pointer:
			if v.IsNil() || seen[v.UnsafePointer()] {
				return
			}
			seen[v.UnsafePointer()] = true
			walk(path, v.Elem())
		case reflect.Interface:
			if !v.IsNil() {
				walk(path, v.Elem())
			}
		case reflect.Struct:
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				walk(fmt.Sprintf("%s[%d]", path, i), v.Index(i))
			}
		case reflect.Map, reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.String:
			if !v.IsZero() {
				m.opaque = append(m.opaque, path)
			}
		default:
			if !v.CanAddr() {
				m.opaque = append(m.opaque, path)
				return
			}
			m.regions = append(m.regions, unsafe.Slice((*byte)(v.Addr().UnsafePointer()), v.Type().Size()))
		}
	}
	walk("", reflect.ValueOf(ptr))
	return m
}

func zero(b []byte) bool { return bytes.Equal(b, make([]byte, len(b))) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
