package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
	"slices"
)

// The engine trusts the pages of its file: a damaged one can make it panic, loop or write over others. So all pages are checked before
// it reads them. Numbers have the byte order of the machine. A page begins with its id, flags, count and overflow: the number of
// pages that follow it and belong to it.
const (
	pageHeader  = 16
	elementSize = 16
	metaSize    = 64
	metaContent = 56 // without the FNV-1a hash of it
	boltMagic   = 0xED0CDAED

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of an element

	bucketHeaderSize = 16
	maxDepth         = 32 // of branch pages and buckets
)

// meta is one of the two meta pages, which alternate between transactions.
type meta struct {
	at       int64 // where its content begins
	pageSize uint32
	root     uint64
	freelist uint64
	end      uint64 // the number of pages
	txid     uint64
}

func readMeta(f io.ReaderAt, at int64) (*meta, bool) {
	var b [metaSize]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return nil, false
	}
	h := fnv.New64a()
	_, _ = h.Write(b[:metaContent])
	order := binary.NativeEndian
	if order.Uint32(b[:]) != boltMagic || order.Uint64(b[metaContent:]) != h.Sum64() {
		return nil, false
	}
	return &meta{at, order.Uint32(b[8:]), order.Uint64(b[16:]), order.Uint64(b[32:]), order.Uint64(b[40:]), order.Uint64(b[48:])}, true
}

// readMetas returns the meta pages of the last transaction and the one before, which is nil if its page is damaged.
func readMetas(f io.ReaderAt) (last, before *meta, err error) {
	size := int64(os.Getpagesize())
	one, ok := readMeta(f, pageHeader)
	if ok {
		size = int64(one.pageSize)
	}
	two, both := readMeta(f, size+pageHeader)
	switch {
	case !ok && !both:
		return nil, nil, fmt.Errorf("%w: both meta pages", ErrDamaged)
	case !both:
		return one, nil, nil
	case !ok:
		return two, nil, nil
	case one.txid > two.txid:
		return one, two, nil
	}
	return two, one, nil
}

// verifier walks the pages of the last transaction.
type verifier struct {
	f     io.ReaderAt
	meta  *meta
	used  []bool
	pages [maxDepth + 1][]byte // the page at each depth
}

// verifyPages checks that each page of a file is in order, and either free or used once.
func verifyPages(f io.ReaderAt, size int64) error {
	m, _, err := readMetas(f)
	if err != nil {
		return err
	}
	if m.pageSize < metaSize+pageHeader || m.end > uint64(size)/uint64(m.pageSize) {
		return fmt.Errorf("%w: %d bytes for %d pages", ErrDamaged, size, m.end)
	}
	v := verifier{f: f, meta: m, used: make([]bool, m.end)}
	if m.end < 4 || m.freelist == math.MaxUint64 {
		return fmt.Errorf("%w: no list of free pages", ErrDamaged)
	}
	v.used[0], v.used[1] = true, true
	if err := v.tree(m.root, 0); err != nil {
		return err
	}
	if err := v.free(); err != nil {
		return err
	}
	for id, used := range v.used {
		if !used {
			return v.fault(uint64(id), "is neither used nor free")
		}
	}
	return nil
}

func (v *verifier) fault(id uint64, format string, args ...any) error {
	return fmt.Errorf("%w: page %d %s", ErrDamaged, id, fmt.Sprintf(format, args...))
}

// page reads a page with its overflow, and marks it as used. The bytes are valid until the next page at this depth.
func (v *verifier) page(id uint64, depth int) (flags uint16, count int, b []byte, err error) {
	var h [pageHeader]byte
	if id < 2 || id >= v.meta.end || depth > maxDepth {
		return 0, 0, nil, v.fault(id, "is out of range at depth %d", depth)
	}
	at := int64(id) * int64(v.meta.pageSize)
	if _, err := v.f.ReadAt(h[:], at); err != nil {
		return 0, 0, nil, err
	}
	order := binary.NativeEndian
	overflow := uint64(order.Uint32(h[12:]))
	if order.Uint64(h[:]) != id || overflow >= v.meta.end-id {
		return 0, 0, nil, v.fault(id, "has the header %x", h)
	}
	for i := id; i <= id+overflow; i++ {
		if v.used[i] {
			return 0, 0, nil, v.fault(i, "is used twice")
		}
		v.used[i] = true
	}
	b = slices.Grow(v.pages[depth][:0], int(overflow+1)*int(v.meta.pageSize))[:(overflow+1)*uint64(v.meta.pageSize)]
	v.pages[depth] = b
	_, err = v.f.ReadAt(b, at)
	return order.Uint16(h[8:]), int(order.Uint16(h[10:])), b, err
}

func (v *verifier) tree(id uint64, depth int) error {
	flags, count, b, err := v.page(id, depth)
	if err != nil {
		return err
	}
	return v.elements(id, flags, count, b, depth)
}

// elements checks the elements of a branch or leaf page, and all below.
func (v *verifier) elements(id uint64, flags uint16, count int, b []byte, depth int) error {
	if flags != flagBranch && flags != flagLeaf || pageHeader+count*elementSize > len(b) || flags == flagBranch && count == 0 {
		return v.fault(id, "has %d elements and flags %x", count, flags)
	}
	order := binary.NativeEndian
	var last []byte
	for i := range count {
		at := pageHeader + i*elementSize
		e := b[at : at+elementSize]
		position, keySize, valueSize, kind := order.Uint32(e), order.Uint32(e[4:]), uint32(0), uint32(0)
		if flags == flagLeaf {
			kind, position, keySize, valueSize = order.Uint32(e), order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		}
		start := uint64(at) + uint64(position)
		end := start + uint64(keySize) + uint64(valueSize)
		if end > uint64(len(b)) || kind > flagBucket {
			return v.fault(id, "has an element from %d to %d", start, end)
		}
		key, value := b[start:start+uint64(keySize)], b[start+uint64(keySize):end]
		if i > 0 && bytes.Compare(last, key) >= 0 || keySize == 0 && flags == flagLeaf {
			return v.fault(id, "has keys out of order")
		}
		last = key
		switch {
		case flags == flagBranch:
			if err := v.tree(order.Uint64(e[8:]), depth+1); err != nil {
				return err
			}
		case kind == flagBucket:
			if err := v.bucket(id, value, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket checks a bucket, which small ones have inside their element.
func (v *verifier) bucket(id uint64, value []byte, depth int) error {
	if len(value) < bucketHeaderSize {
		return v.fault(id, "has a bucket of %d bytes", len(value))
	}
	order := binary.NativeEndian
	if root := order.Uint64(value); root != 0 {
		return v.tree(root, depth)
	}
	inline := value[bucketHeaderSize:]
	if len(inline) < pageHeader || order.Uint64(inline) != 0 || order.Uint16(inline[8:]) != flagLeaf || order.Uint32(inline[12:]) != 0 {
		return v.fault(id, "has a damaged bucket")
	}
	return v.elements(id, flagLeaf, int(order.Uint16(inline[10:])), inline, depth)
}

// free checks the list of free pages.
func (v *verifier) free() error {
	id := v.meta.freelist
	flags, count, b, err := v.page(id, 0)
	if err != nil {
		return err
	}
	order := binary.NativeEndian
	list := b[pageHeader:]
	if count == math.MaxUint16 && len(list) >= 8 { // the number stands before the list
		count, list = int(min(order.Uint64(list), uint64(len(b)))), list[8:]
	}
	if flags != flagFreelist || count > len(list)/8 {
		return v.fault(id, "has flags %x and %d free pages", flags, count)
	}
	for i := range count {
		free := order.Uint64(list[8*i:])
		if free < 2 || free >= v.meta.end || v.used[free] {
			return v.fault(id, "has the free page %d", free)
		}
		v.used[free] = true
	}
	return nil
}
