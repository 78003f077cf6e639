package wire

import (
	"encoding/binary"
	"unicode/utf8"
)

// Bounds of a CBOR map in a Register or RegisterResult, section 9.
const (
	// MaxCBORKeys is the maximum number of keys of a map.
	MaxCBORKeys = 32
	// MaxCBORDepth is the maximum nesting of maps and arrays, the outermost map included.
	MaxCBORDepth = 4
)

// The major types of RFC 8949 section 3.1.
const (
	cborUint  = 0
	cborBytes = 2
	cborText  = 3
	cborArray = 4
	cborMap   = 5
)

// The simple values of RFC 8949 section 3.3 that section 9 allows, as encoded bytes.
const (
	cborFalse = 0xF4
	cborTrue  = 0xF5
	cborNull  = 0xF6
)

// cborItem is an encoded data item whose structure checkCBOR has checked.
type cborItem []byte

// checkCBOR checks that b is exactly one map within the rules of section 9. It does not allocate.
// Errors: ErrShort, ErrTrailing, ErrCBOR, ErrCBORBound, ErrDuplicateKey.
func checkCBOR(b []byte) error {
	if len(b) == 0 {
		return ErrShort
	}
	if b[0]>>5 != cborMap {
		return ErrCBOR
	}
	n, err := itemSize(b, MaxCBORDepth)
	if err == nil && n < len(b) {
		err = ErrTrailing
	}
	return err
}

// cborHead reads the head of the item at the start of b: its major type, its argument and the size of
// the head.
func cborHead(b []byte) (major byte, arg uint64, size int, err error) {
	if len(b) == 0 {
		return 0, 0, 0, ErrShort
	}
	major, arg, size = b[0]>>5, uint64(b[0]&0x1F), 1
	switch {
	case arg < 24:
	case arg > 27: // reserved, or of indefinite length
		return 0, 0, 0, ErrCBOR
	default:
		size += 1 << (arg - 24)
		if len(b) < size {
			return 0, 0, 0, ErrShort
		}
		arg = 0
		for _, x := range b[1:size] {
			arg = arg<<8 | uint64(x)
		}
	}
	return major, arg, size, nil
}

// itemSize checks the item at the start of b, which may nest depth more levels, and returns its size.
func itemSize(b []byte, depth int) (int, error) {
	major, arg, size, err := cborHead(b)
	if err != nil {
		return 0, err
	}
	switch major {
	case cborUint, 1: // 1: negative
		return size, nil
	case cborBytes, cborText:
		if arg > uint64(len(b)-size) {
			return 0, ErrShort
		}
		end := size + int(arg)
		if major == cborText && !utf8.Valid(b[size:end]) {
			return 0, ErrCBOR
		}
		return end, nil
	case cborArray, cborMap:
		if depth == 0 || major == cborMap && arg > MaxCBORKeys {
			return 0, ErrCBORBound
		}
		if arg > uint64(len(b)-size) { // an item has at least a byte
			return 0, ErrShort
		}
		if major == cborMap {
			return mapSize(b, size, int(arg), depth-1)
		}
		for range arg {
			n, err := itemSize(b[size:], depth-1)
			if err != nil {
				return 0, err
			}
			size += n
		}
		return size, nil
	}
	if b[0] != cborFalse && b[0] != cborTrue && b[0] != cborNull { // a tag, float or other simple value
		return 0, ErrCBOR
	}
	return size, nil
}

// mapSize checks n keys and values from b[at:] on and returns where they end.
func mapSize(b []byte, at, n, depth int) (int, error) {
	var keys [MaxCBORKeys]cborKey
	for i := range n {
		if at < len(b) && b[at]>>5 != cborText {
			return 0, ErrCBOR
		}
		size, err := itemSize(b[at:], 0)
		if err != nil {
			return 0, err
		}
		keys[i] = newCBORKey(cborItem(b[at : at+size]).content())
		for j := range i {
			if keys[j].equal(&keys[i]) {
				return 0, ErrDuplicateKey
			}
		}
		at += size
		if size, err = itemSize(b[at:], depth); err != nil {
			return 0, err
		}
		at += size
	}
	return at, nil
}

// cborKey is a key whose first bytes decide most comparisons: a long message has tens of thousands.
type cborKey struct {
	first uint64 // the first eight bytes
	all   []byte
}

func newCBORKey(b []byte) (k cborKey) {
	k.all = b
	for _, x := range b[:min(8, len(b))] {
		k.first = k.first<<8 | uint64(x)
	}
	return k
}

func (k *cborKey) equal(o *cborKey) bool {
	return k.first == o.first && len(k.all) == len(o.all) && string(k.all) == string(o.all)
}

func (v cborItem) is(major byte) bool { return v[0]>>5 == major }

// content returns the bytes of a byte or text string.
func (v cborItem) content() []byte {
	_, _, size, _ := cborHead(v)
	return rest(v, size)
}

// next splits the items of a map or array: it returns the first item of v and the rest.
func (v cborItem) next() (first, rest cborItem) {
	n := v.size()
	return v[:n:n], v[n:]
}

// size returns the size of the first item of v.
func (v cborItem) size() int {
	major, arg, n, _ := cborHead(v)
	switch major {
	case cborBytes, cborText:
		return n + int(arg)
	case cborMap:
		arg *= 2
	case cborArray:
	default:
		return n
	}
	for range arg {
		n += v[n:].size()
	}
	return n
}

// open returns the number of items or pairs of an array or map, and the items.
func (v cborItem) open() (n int, items cborItem) {
	_, arg, size, _ := cborHead(v)
	return int(arg), v[size:]
}

// uint sets to to an unsigned integer of at most limit. The methods below return ErrRegisterField for
// an item of another type or size.
func (v cborItem) uint(to *uint64, limit uint64) error {
	major, arg, _, _ := cborHead(v)
	if major != cborUint || arg > limit {
		return ErrRegisterField
	}
	*to = arg
	return nil
}

// string sets to to the content of a byte or text string of at most limit bytes. to aliases v.
func (v cborItem) string(major byte, to *[]byte, limit int) error {
	if !v.is(major) || len(v.content()) > limit {
		return ErrRegisterField
	}
	*to = v.content()
	return nil
}

// fixed sets to to a byte string of exactly size bytes. to aliases v.
func (v cborItem) fixed(to *[]byte, size int) error {
	if !v.is(cborBytes) || len(v.content()) != size {
		return ErrRegisterField
	}
	*to = v.content()
	return nil
}

// The functions below append core deterministic CBOR (RFC 8949 section 4.2.1). Their callers append the
// keys of a map in its order: shorter keys first, then bytewise.

func appendHead(dst []byte, major byte, arg uint64) []byte {
	major <<= 5
	switch {
	case arg < 24:
		return append(dst, major|byte(arg))
	case arg < 1<<8:
		return append(dst, major|24, byte(arg))
	case arg < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, major|25), uint16(arg))
	case arg < 1<<32:
		return binary.BigEndian.AppendUint32(append(dst, major|26), uint32(arg))
	}
	return binary.BigEndian.AppendUint64(append(dst, major|27), arg)
}

func appendText(dst []byte, s string) []byte {
	return append(appendHead(dst, cborText, uint64(len(s))), s...)
}

func appendUintField(dst []byte, key string, v uint64) []byte {
	return appendHead(appendText(dst, key), cborUint, v)
}

func appendTextField(dst []byte, key, v string) []byte {
	return appendText(appendText(dst, key), v)
}

func appendBytesField(dst []byte, key string, v []byte) []byte {
	return append(appendHead(appendText(dst, key), cborBytes, uint64(len(v))), v...)
}
