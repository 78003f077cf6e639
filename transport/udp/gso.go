package udp

import "lewes/transport"

const (
	// maxSegments bounds the datagrams of a GSO train: UDP_MAX_SEGMENTS is at least 64.
	maxSegments = 64
	// maxTrain bounds the bytes of a GSO train, which is one IP packet inside the kernel.
	maxTrain = 65000
)

// cursor is a position in a batch.
type cursor struct {
	packet int // index of the packet
	offset int // byte of its Data
}

// gsoMessage is one message to the system: a datagram, or a GSO train, which is a
// sequence of datagrams of the same path and length (the last may be shorter) that the
// kernel or the device segments.
type gsoMessage struct {
	from, to cursor // range of the batch
	size     int    // of each datagram but the last
	segments int    // datagrams
	bytes    int
	buffers  int // packets in the range
}

// last returns the index of the last packet in m.
func (m *gsoMessage) last() int {
	if m.to.offset > 0 {
		return m.to.packet
	}
	return m.to.packet - 1
}

// gsoBatcher splits the range at to end of a batch into messages.
type gsoBatcher struct {
	packets  []transport.Packet
	at, end  cursor
	onePath  bool // the socket is connected: paths are ignored
	segments int  // maximum of datagrams per message; 1 without GSO
}

func newGSOBatcher(p []transport.Packet, onePath bool, segments int) gsoBatcher {
	return gsoBatcher{packets: p, end: cursor{packet: len(p)}, onePath: onePath, segments: segments}
}

// more reports whether anything is left.
func (b *gsoBatcher) more() bool {
	return b.at.packet < b.end.packet || b.at.packet == b.end.packet && b.at.offset < b.end.offset
}

// limit returns the end of the range within packet i.
func (b *gsoBatcher) limit(i int) int {
	if i == b.end.packet {
		return b.end.offset
	}
	return len(b.packets[i].Data)
}

// next returns the next message, of at most the given number of buffers. more must be
// true. An empty datagram is a message of its own: a train cannot contain one.
func (b *gsoBatcher) next(buffers int) gsoMessage {
	p := &b.packets[b.at.packet]
	rest := b.limit(b.at.packet) - b.at.offset
	m := gsoMessage{from: b.at, size: min(segmentSize(p), rest)}
	for {
		take := rest
		if m.size > 0 {
			room := min(b.segments-m.segments, (maxTrain-m.bytes)/m.size)
			if m.segments == 0 {
				room = max(room, 1) // the system refuses a datagram that is too large
			}
			if room <= 0 {
				break
			}
			take = min(rest, room*m.size)
			m.segments += (take + m.size - 1) / m.size
		} else {
			m.segments = 1
		}
		m.bytes += take
		m.buffers++
		b.at.offset += take
		if take < rest {
			break
		}
		b.at = cursor{packet: b.at.packet + 1}
		if m.size == 0 || take%m.size != 0 || m.segments == b.segments || m.buffers == buffers || !b.more() {
			break
		}
		q := &b.packets[b.at.packet]
		if !b.onePath && q.Path != p.Path || !continues(q, m.size) {
			break
		}
		p, rest = q, b.limit(b.at.packet)
	}
	m.to = b.at
	return m
}

// segmentSize returns the length of p's datagrams, except the last.
func segmentSize(p *transport.Packet) int {
	if p.Segment <= 0 || p.Segment > len(p.Data) {
		return len(p.Data)
	}
	return p.Segment
}

// continues reports whether p can follow datagrams of the given size in a train.
func continues(p *transport.Packet, size int) bool {
	if d := segmentSize(p); d < len(p.Data) {
		return d == size
	}
	return len(p.Data) > 0 && len(p.Data) <= size
}
