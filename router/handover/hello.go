package handover

import (
	"fmt"
	"net/netip"
	"time"

	"lewes/crypto/identity"
	"lewes/state/snapshot"
)

// Version is the version of all messages except sessions, which have their own.
const Version = 3

// MaxExtraFiles bounds the descriptors that are handed over for the gateway's owner.
const MaxExtraFiles = 64

// Bounds of a HelloMessage.
const (
	maxGroups    = 1 << 10
	maxSockets   = 1 << 12
	maxExtraName = 64
	minAddrSize  = 3 // bytes
	minGroupSize = 6 // bytes
)

// HelloMessage is the payload of Hello: the predecessor's identity and addresses. The sockets follow
// in the order of Groups, then TCP listeners, then extra files.
type HelloMessage struct {
	Identity     identity.PublicKey
	SteerSecret  uint32
	Shards       int
	Port         uint16
	Addrs        []netip.AddrPort // listening addresses of the configuration
	Groups       []SocketGroup
	TCPListeners int
	ExtraNames   []string // names
}

// SocketGroup describes the UDP sockets of one address.
type SocketGroup struct {
	Addr    netip.AddrPort
	Steered bool
	Sockets int
}

// Files returns the number of sockets and files that follow.
func (m *HelloMessage) Files() int {
	n := m.TCPListeners + len(m.ExtraNames)
	for _, g := range m.Groups {
		n += g.Sockets
	}
	return n
}

// Append appends the message to w.
func (m *HelloMessage) Append(w *snapshot.Writer) {
	w.Uint16(Version)
	m.code(snapshot.Encode(w))
}

// ParseHello parses a Hello's payload.
func ParseHello(payload []byte) (*HelloMessage, error) {
	r := snapshot.NewReader(payload, time.Time{})
	if v := r.Uint16(); r.Err() == nil && v != Version {
		return nil, fmt.Errorf("the predecessor's handover version is %d, this program's is %d; restart the gateway instead", v, Version)
	}
	m := new(HelloMessage)
	m.code(snapshot.Decode(r))
	return m, r.End()
}

func (m *HelloMessage) code(c *snapshot.Codec) {
	c.Fixed(m.Identity[:])
	c.Uint32(&m.SteerSecret)
	snapshot.Int(c, &m.Shards)
	c.Uint16(&m.Port)
	codeList(c, &m.Addrs, maxGroups, minAddrSize, c.AddrPort)
	codeList(c, &m.Groups, maxGroups, minGroupSize, func(g *SocketGroup) {
		c.AddrPort(&g.Addr)
		c.Bool(&g.Steered)
		snapshot.Int(c, &g.Sockets)
		c.Check(g.Sockets >= 1 && g.Sockets <= maxSockets, "%d sockets of one address", g.Sockets)
	})
	m.TCPListeners = c.Count(m.TCPListeners, maxSockets, 0)
	codeList(c, &m.ExtraNames, MaxExtraFiles, 4, func(name *string) {
		b := []byte(*name)
		c.Blob(&b, maxExtraName)
		*name = string(b)
	})
}

// codeList codes a list. Decoding stops at the first error.
func codeList[T any](c *snapshot.Codec, list *[]T, limit, size int, code func(*T)) {
	n := c.Count(len(*list), limit, size)
	if c.Decoding() {
		*list = make([]T, n)
	}
	for i := range *list {
		code(&(*list)[i])
	}
}
