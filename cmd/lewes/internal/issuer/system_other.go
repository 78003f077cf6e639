//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package issuer

import "os"

// lock does nothing.
func lock(string) (unlock func(), err error) { return func() {}, nil }

// chownLikeDirectory does nothing: a file inherits the access rules of its directory.
func chownLikeDirectory(*os.File) error { return nil }
