//go:build !linux

package machine

// read has nothing to add here.
func (m *Machine) read() {}
