package client_test

import (
	"time"

	"lewes/crypto/cookie"
	"lewes/state/wire"
	"lewes/transport"
)

func macOf(g *gateway) *cookie.MAC1Key { return cookie.NewMAC1Key(g.identity.Public()) }

// forge builds a clear packet as anybody can who knows the gateway's key.
func forge(mac *cookie.MAC1Key, index uint32, t wire.Type, m interface{ Append([]byte) []byte }) []byte {
	p := wire.Finish(m.Append(wire.Begin(nil, index, wire.LevelClear, 0, t)))
	mac.Sum(p)
	return p
}

// wrongClock is a way to a gateway whose clock goes a year ahead: it answers each
// hello by a Reject and lets nothing else come back.
type wrongClock struct {
	transport.Conn
	mac *cookie.MAC1Key
}

func (c *wrongClock) ReadBatch(p []transport.Packet) (int, error) {
	n, err := c.Conn.ReadBatch(p)
	if n > 0 {
		index, _ := wire.ReceiverIdx(p[0].Data)
		at := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
		p[0].Data = forge(c.mac, index, wire.TypeReject, &wire.Reject{Code: wire.RejectClock, GatewaySeconds: uint64(at.Unix())})
		n = 1
	}
	return n, err
}
