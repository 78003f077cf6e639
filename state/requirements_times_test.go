package state

import (
	"testing"
	"time"

	"lewes/state/parts"
	"lewes/state/wire"
)

// TestNumbersOfTheProtocol compares what the tests of this package go by with the
// numbers in PROTOCOL.md.
//
// Shows R1.20, R5.23, R6.11.
func TestNumbersOfTheProtocol(t *testing.T) {
	for name, c := range map[string]struct{ got, want time.Duration }{
		"record after Handshake 3":   {responderLinger, 10 * time.Second},
		"validation of an address":   {validationTimeout, 3 * time.Second},
		"SubsessionRequest again":    {requestRetry, 5 * time.Second},
		"KK1 again, at first":        {rekeyRetry, 500 * time.Millisecond},
		"KK1 again, later":           {rekeySlowRetry, 10 * time.Second},
		"Acks for a demoted parent":  {ackInterval, 500 * time.Millisecond},
		"a demoted parent":           {DefaultDemotedTTL, time.Minute},
		"first repetition":           {firstRetry, 200 * time.Millisecond},
		"longest wait":               {longestRetry, time.Second},
		"deadline":                   {DefaultDeadline, 10 * time.Second},
		"handshake_ttl":              {(&GatewayConfig{}).handshakeTTL(), 90 * time.Second},
		"tolerance":                  {(&GatewayConfig{}).tolerance(), 30 * time.Second},
		"largest probe every":        {confirmEvery, 30 * time.Second},
		"larger sizes probed every":  {raiseEvery, 10 * time.Minute},
		"probes of a size":           {probeWait, 500 * time.Millisecond},
		"keys of a KEM are offered":  {kemRenewal, 24 * time.Hour},
		"keys of a KEM are accepted": {kemAccepted, time.Hour},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	for name, c := range map[string]struct{ got, want int }{
		"tries a second and record": {triesPerSecond, 4},
		"early packets of a record": {maxEarlyPackets, 4},
		"early bytes":               {(&GatewayConfig{}).maxEarlyBytes(), 64 << 20},
		"records":                   {(&GatewayConfig{}).maxHandshakes(), 65_536},
		"tries before cookies":      {(&GatewayConfig{}).cookieThreshold(), 500},
		"amplification":             {amplificationFactor, 3},
		"quick repetitions of KK1":  {rekeyFastTries, 5},
		"attempts":                  {maxAttempts, 3},
		"Acks kept":                 {maxAcks, 4},
		"Handshake 2 packets kept":  {maxHandshake2s, 2},
		"Pings in doubt":            {livenessPings, 3},
		"probes of each size":       {probeTries, 3},
		"what fits every path":      {basePacket, 1232},
		"new keys at":               {DefaultRekeyPackets, 1 << 28},
		"keys spent at":             {MaxPackets, 1 << 34},
		"a handshake message":       {parts.MaxHandshake, 4096},
		"a Register":                {parts.MaxRegister, 8192},
		"smallest hello":            {wire.MinHelloDatagram, 1000},
		"largest handshake packet":  {wire.MaxHandshakeDatagram, 1080},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
}
