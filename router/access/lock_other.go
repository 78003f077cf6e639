//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package access

// lock does nothing: replace looks for changes that others made.
func lock(string) (unlock func(), err error) { return func() {}, nil }
