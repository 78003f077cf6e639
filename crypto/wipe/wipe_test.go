package wipe_test

import (
	"bytes"
	"testing"

	"lewes/crypto/wipe"
)

type inner struct {
	words  [3]uint32
	number int64
}

type node struct {
	name   string
	plain  inner
	bytes  []byte
	nested [2]*inner
	boxed  any
	list   []inner
	next   *node
	none   *inner // nil
	fn     func() int
}

func TestDeepErasesAllThatIsReachable(t *testing.T) {
	backing := bytes.Repeat([]byte{0xaa}, 16)
	boxed := &inner{number: 7}
	first, second := &inner{words: [3]uint32{1, 2, 3}}, &inner{number: -1}
	n := &node{
		name:   "kept",
		plain:  inner{words: [3]uint32{4, 5, 6}, number: 9},
		bytes:  backing[:8],
		nested: [2]*inner{first, second},
		boxed:  boxed,
		list:   []inner{{number: 1}, {number: 2}},
		fn:     func() int { return 5 },
	}
	n.next = &node{plain: inner{number: 3}, next: n} // a cycle

	wipe.Deep(n)

	zero := inner{}
	for what, got := range map[string]inner{
		"struct field":         n.plain,
		"behind a pointer":     *first,
		"behind another":       *second,
		"behind an interface":  *boxed,
		"in a slice":           n.list[0],
		"last of a slice":      n.list[1],
		"of the next in chain": n.next.plain,
	} {
		if got != zero {
			t.Errorf("%s: %+v is left", what, got)
		}
	}
	if !bytes.Equal(backing, append(make([]byte, 8), bytes.Repeat([]byte{0xaa}, 8)...)) {
		t.Errorf("bytes: %x: want the slice's eight gone, and no more", backing)
	}
	if n.name != "kept" || n.nested[0] != first || n.next.next != n || n.boxed != any(boxed) || n.none != nil || len(n.list) != 2 || n.fn() != 5 {
		t.Error("the shape changed")
	}
}

func TestDeepWantsAPointer(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a value was taken: its copy would be wiped, not it")
		}
	}()
	wipe.Deep(inner{number: 1})
}

func TestBytes(t *testing.T) {
	b := []byte{1, 2, 3, 4}
	wipe.Bytes(b[:3])
	if !bytes.Equal(b, []byte{0, 0, 0, 4}) {
		t.Errorf("got %x", b)
	}
	wipe.Bytes(nil)
}
