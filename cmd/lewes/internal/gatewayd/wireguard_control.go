//go:build !freebsd

package gatewayd

import (
	"golang.zx2c4.com/wireguard/wgctrl"

	"lewes/router/wireguard"
)

func newWireGuardControl() (wireguard.Control, error) { return wgctrl.New() }
