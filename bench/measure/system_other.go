//go:build !linux

package measure

import (
	"errors"
	"time"
)

// The bench itself runs on Linux only. Elsewhere tests use the clock, which is the wall clock.

func sharedClock() int64     { return time.Now().UnixNano() }
func selfCPU() time.Duration { return 0 }
func resident() uint64       { return 0 }
func sharpen()               {}
func sleep(d time.Duration)  { time.Sleep(d) }

// OfProcess is not supported.
func OfProcess(int) (Usage, error) { return Usage{}, errors.ErrUnsupported }
