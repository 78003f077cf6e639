//go:build !linux

package router

import "errors"

func pin(int) error { return errors.New("pinning is available on Linux only") }
