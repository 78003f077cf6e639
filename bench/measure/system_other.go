//go:build !linux

package measure

import (
	"errors"
	"time"
)

func sharpen()              {}
func sleep(d time.Duration) { time.Sleep(d) }

// Now returns the wall clock. The bench runs on Linux only; elsewhere tests use this clock.
func Now() int64 { return time.Now().UnixNano() }

// OfProcess is not supported.
func OfProcess(int) (Usage, error) { return Usage{}, errors.ErrUnsupported }
