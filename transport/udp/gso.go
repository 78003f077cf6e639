package udp

import (
	"lewes/transport"
)

const (
	// maxSegments is how many datagrams the kernel takes as one train
	// (UDP_MAX_SEGMENTS, 64 in the kernels that have least).
	maxSegments = 64
	// maxTrain bounds a train's bytes: it travels the kernel as one IP packet.
	maxTrain = 65000
)

// cursor is a place in a batch.
type cursor struct {
	packet int // index of the packet
	offset int // byte of its Data
}

// run is what goes to the system as one message: a datagram, or a train of
// datagrams of one path and one length, the last of which may be shorter.
type run struct {
	from, to cursor // the bytes of the batch that it covers
	size     int    // of each datagram but the last
	segments int    // datagrams
	bytes    int
	pieces   int // packets that it touches: the buffers that it needs
}

// last returns the index of the last packet that r touches.
func (r *run) last() int {
	if r.to.offset > 0 {
		return r.to.packet
	}
	return r.to.packet - 1
}

// cutter cuts the part of a batch between at and end into runs.
type cutter struct {
	packets  []transport.Packet
	at, end  cursor
	onePath  bool // the socket is connected: what the packets' paths say is of no matter
	segments int  // how many datagrams a run may have; 1 where segmentation is off
}

// cut makes a cutter for a whole batch.
func cut(p []transport.Packet, onePath bool, segments int) cutter {
	return cutter{packets: p, end: cursor{packet: len(p)}, onePath: onePath, segments: segments}
}

// more says whether anything is left.
func (c *cutter) more() bool {
	return c.at.packet < c.end.packet || c.at.packet == c.end.packet && c.at.offset < c.end.offset
}

// limit returns where the part to cut ends within packet i.
func (c *cutter) limit(i int) int {
	if i == c.end.packet {
		return c.end.offset
	}
	return len(c.packets[i].Data)
}

// next takes the next run, of at most so many pieces; more must be true. An empty
// datagram is a run of its own: a train has no place for one.
func (c *cutter) next(pieces int) run {
	p := &c.packets[c.at.packet]
	rest := c.limit(c.at.packet) - c.at.offset
	r := run{from: c.at, size: min(datagramSize(p), rest)}
	for {
		take := rest
		if r.size > 0 {
			room := min(c.segments-r.segments, (maxTrain-r.bytes)/r.size)
			if r.segments == 0 {
				room = max(room, 1) // a datagram that is too large is the system's to refuse
			}
			if room <= 0 {
				break
			}
			take = min(rest, room*r.size)
			r.segments += (take + r.size - 1) / r.size
		} else {
			r.segments = 1
		}
		r.bytes += take
		r.pieces++
		c.at.offset += take
		if take < rest {
			break
		}
		c.at = cursor{packet: c.at.packet + 1}
		if r.size == 0 || take%r.size != 0 || r.segments == c.segments || r.pieces == pieces || !c.more() {
			break
		}
		q := &c.packets[c.at.packet]
		if !c.onePath && q.Path != p.Path || !continues(q, r.size) {
			break
		}
		p, rest = q, c.limit(c.at.packet)
	}
	r.to = c.at
	return r
}

// datagramSize returns the length of p's datagrams, all but the last.
func datagramSize(p *transport.Packet) int {
	if p.Segment <= 0 || p.Segment > len(p.Data) {
		return len(p.Data)
	}
	return p.Segment
}

// continues says whether p can follow whole datagrams of the given size in a train.
func continues(p *transport.Packet, size int) bool {
	if d := datagramSize(p); d < len(p.Data) {
		return d == size
	}
	return len(p.Data) > 0 && len(p.Data) <= size
}
