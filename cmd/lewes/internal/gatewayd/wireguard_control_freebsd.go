package gatewayd

import (
	"errors"

	"lewes/router/wireguard"
)

// newWireGuardControl fails: package wgctrl needs cgo on this system.
func newWireGuardControl() (wireguard.Control, error) { return nil, errors.ErrUnsupported }
