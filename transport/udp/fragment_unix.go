//go:build unix && !linux && !darwin && !freebsd

package udp

import "errors"

var errNoDontFragment = errors.New("this system has no option for it")

func dontFragment(uintptr, bool) error { return errNoDontFragment }
