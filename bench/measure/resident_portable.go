//go:build !linux

package measure

// resident is not known here.
func resident() uint64 { return 0 }
