//go:build !linux

package link

import "errors"

func openTUN(string) (Device, error) { return nil, errors.ErrUnsupported }
