//go:build !linux

package pace

import "time"

func sharpen() {}

func sleep(d time.Duration) { time.Sleep(d) }
