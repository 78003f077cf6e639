package client

import (
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

const (
	// readBatch is how many packets, most of them GRO trains, one read returns.
	readBatch = 16
	// maxReadPause bounds the pause between reads that return nothing but errors.
	maxReadPause = 200 * time.Millisecond
	// refusedPause is the pause after an ICMP error.
	refusedPause = time.Millisecond
)

// handleBatch handles received packets.
func (st *connState) handleBatch(now time.Time, p *gatewayPath, packets []transport.Packet) {
	for i := range packets {
		for datagram := range packets[i].Segments() {
			st.handlePacket(now, p, datagram, packets[i].Path)
		}
	}
}

// handlePacket handles one packet. Unhandled packets are counted and dropped.
func (st *connState) handlePacket(now time.Time, p *gatewayPath, packet []byte, from path.Path) {
	if len(packet) > wire.MaxUDPPacket && p.path.Transport == path.UDP || st.accept(now, p, packet, from) != nil {
		st.discarded++
	}
}

func (st *connState) accept(now time.Time, p *gatewayPath, packet []byte, from path.Path) error {
	if st.c.session == nil {
		err := st.client.Handle(now, packet, &st.out)
		st.establish()
		return err
	}
	h, err := wire.ParseHeader(packet)
	if err != nil {
		return err
	}
	if h.Level == wire.LevelTransport {
		return st.handleTransport(now, p, h, packet, from)
	}
	// An answer to another copy of the hello, while the session is not confirmed.
	return st.client.Handle(now, packet, &st.out)
}

// handleTransport opens a sealed packet and handles its message.
func (st *connState) handleTransport(now time.Time, p *gatewayPath, h wire.Header, packet []byte, from path.Path) error {
	keys := st.keySets[h.ReceiverIdx]
	if keys == nil {
		return state.ErrStale
	}
	t, content, err := keys.OpenParsed(now, h, packet, from, &st.out)
	if err != nil {
		return err
	}
	st.noteAuthentic(now, p)
	switch t {
	case wire.TypePing:
		if st.isLeaving(p) {
			return nil
		}
		if len(packet) == wire.MinPingPacket {
			st.keepalive.challenged(now)
			st.c.session.SetKeepalive(now, st.keepalive.interval)
		}
	case wire.TypeEncryptedData:
		m, err := wire.ParseEncryptedData(content)
		if err != nil {
			return err
		}
		if m.Flags != 0 {
			return wire.ErrFlags // the client opens no flows of other kinds
		}
		return st.deliver(now, m.FlowID, false, m.Payload)
	case wire.TypeForwardPacket:
		m, err := wire.ParseForwardPacket(content)
		if err != nil {
			return err
		}
		return st.deliver(now, m.FlowID, true, m.Inner)
	case wire.TypeFlowClosed:
		m, err := wire.ParseFlowClosed(content)
		if err != nil {
			return err
		}
		if f := st.s.flows.find(m.FlowID); f != nil {
			f.handleClosed(&m, st.unsettled())
			if m.Reason == wire.FlowBandwidth && st.s.payer != nil {
				st.s.payer.note(&RegisterResult{Code: RegisterBandwidthUsedUp}) // the report may be lost
			}
		}
		return nil
	case wire.TypePong:
		st.handlePong(content)
	}
	before := st.c.session.LastAnswered()
	err = st.c.session.Control(now, keys, t, content, from, &st.out)
	if sent := st.c.session.LastAnswered(); sent != before && p == st.c.active.Load() {
		st.noteAnswered(now, sent)
	}
	return err
}

// handlePong wakes the Session.Ping that waits for a Pong.
func (st *connState) handlePong(content []byte) {
	pong, err := wire.ParsePong(content)
	if err != nil {
		return
	}
	if waiting := st.pongs[pong.Data]; waiting != nil {
		delete(st.pongs, pong.Data)
		signal(waiting)
	}
}

// deliver queues a payload in its flow's inbox. A gateway that sends on a closed flow gets
// a FlowClosed.
func (st *connState) deliver(now time.Time, id uint16, forward bool, payload []byte) error {
	f := st.s.flows.find(id)
	if f == nil {
		if st.s.flows.noteClosed(id, st.s.at(now)) {
			_ = st.c.session.Send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: id, Reason: wire.FlowIdle}, &st.out)
		}
		return state.ErrStale
	}
	if f.to.forward() != forward {
		return state.ErrUnexpectedMessage
	}
	if !forward {
		st.c.session.NoteReceived(now)
	}
	f.receive(st.c, now, payload)
	return nil
}
