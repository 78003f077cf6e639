package wipe_test

import (
	"bytes"
	"reflect"
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

func TestDeepZeroesReachableNumbers(t *testing.T) {
	backing := bytes.Repeat([]byte{0xaa}, 16)
	boxed := &inner{number: 7}
	first, second := &inner{words: [3]uint32{1, 2, 3}}, &inner{number: -1}
	n := &node{
		name:   "kept",
		plain:  inner{words: [3]uint32{4, 5, 6}, number: 9},
		bytes:  backing[:8:12],
		nested: [2]*inner{first, second},
		boxed:  boxed,
		list:   []inner{{number: 1}, {number: 2}},
		fn:     func() int { return 5 },
	}
	n.next = &node{plain: inner{number: 3}, next: n} // a cycle

	wipe.Deep(n)

	erased := inner{}
	for place, got := range map[string]inner{
		"struct field":        n.plain,
		"behind a pointer":    *first,
		"behind another":      *second,
		"behind an interface": *boxed,
		"in a slice":          n.list[0],
		"last of a slice":     n.list[1],
		"in the next node":    n.next.plain,
	} {
		if got != erased {
			t.Errorf("%s: %+v is left", place, got)
		}
	}
	if !zero(backing[:12]) || bytes.Count(backing[12:], []byte{0xaa}) != 4 {
		t.Errorf("bytes: %x: expected 12 zeros, the slice's capacity", backing)
	}
	if n.name != "kept" || n.nested[0] != first || n.next.next != n || n.boxed != any(boxed) || n.none != nil || len(n.list) != 2 || n.fn() != 5 {
		t.Error("the shape changed")
	}
}

func TestDeepSkipsSharedTypes(t *testing.T) {
	n := &node{nested: [2]*inner{{number: 1}}, plain: inner{number: 2}, boxed: new(int64(3))}
	wipe.Deep(n, reflect.TypeFor[[2]*inner](), reflect.TypeFor[any]())
	if n.nested[0].number != 1 || *n.boxed.(*int64) != 3 || n.plain.number != 0 {
		t.Errorf("%+v, boxed %d", n, *n.boxed.(*int64))
	}
}

func TestDeepPanicsOnNonPointer(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Deep accepted a value, of which it would erase a copy")
		}
	}()
	wipe.Deep(inner{number: 1})
}
