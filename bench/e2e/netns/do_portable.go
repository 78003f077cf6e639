//go:build !linux

package netns

import "lewes/bench/worker"

// Do fails: this system has no network namespaces.
func (m *Machine) Do(func() error) error { return worker.ErrNoNamespaces }

// Do fails as well.
func Do(int, func() error) error { return worker.ErrNoNamespaces }
