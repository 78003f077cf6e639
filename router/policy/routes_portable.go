//go:build !linux

package policy

import (
	"context"
	"errors"
	"net/netip"
)

// Routes is the system's routing table, which can be opened on Linux only.
type Routes struct{}

// OpenRoutes returns errors.ErrUnsupported.
func OpenRoutes() (*Routes, error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (r *Routes) Close() {}

// Wait implements RouteTable.
func (r *Routes) Wait(context.Context) error { return errors.ErrUnsupported }

// Route implements RouteTable.
func (r *Routes) Route(netip.Addr) (Route, error) { return 0, errors.ErrUnsupported }
