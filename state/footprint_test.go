package state

import (
	"testing"
	"unsafe"
)

// A gateway holds a million sessions. What the allocator gives out comes in
// classes: past one of these sizes each of them takes 64 bytes more.
func TestSessionKeepsToItsSizeClass(t *testing.T) {
	const header = 8 // the allocator's, on objects above 512 bytes with pointers
	for _, row := range []struct {
		what       string
		size, most uintptr
	}{
		{"Session", unsafe.Sizeof(Session{}), 576 - header},
		{"Generation", unsafe.Sizeof(KeySet{}), 160},
		{"waypoint", unsafe.Sizeof(pathState{}), 96},
	} {
		if row.size > row.most {
			t.Errorf("a %s has %d bytes, its size class ends at %d", row.what, row.size, row.most)
		}
	}
}
