//go:build !linux

package netns

import "lewes/bench/worker"

// Do calls f in the machine, which there is none of on this system.
func (m *Machine) Do(func() error) error { return worker.ErrNoNamespaces }
