package gatewayd

// notifySignals returns no channels: Windows has neither signal.
func notifySignals() (s signals, stop func()) { return signals{}, func() {} }
