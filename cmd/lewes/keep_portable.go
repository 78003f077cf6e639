//go:build !linux

package main

import (
	"errors"
	"os"

	"lewes/router"
)

// leave fails: there is no systemd here.
func leave(*router.Gateway) error { return errors.ErrUnsupported }

func keptFiles() (state *os.File, sockets []*os.File, err error) { return nil, nil, nil }
