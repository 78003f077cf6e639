package router

import (
	"errors"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// rxContext is a received packet with its header, which is parsed once, and the key set of its
// receiver index, which is looked up once.
type rxContext struct {
	now    time.Time
	packet []byte
	from   path.Path
	header wire.Header
	keys   *state.KeySet // of a transport packet; nil: unknown index
}

// lookup is the cached result of a session lookup. It holds until version changes.
type lookup struct {
	index uint32
	keys  *state.KeySet
}

// receive handles a batch, and appends the packets of other shards to misrouted.
func (st *shardState) receive(now time.Time, batch, misrouted []transport.Packet) []transport.Packet {
	st.scheduler.backlogged = len(batch) == batchSize
	var cached [batchSize]lookup
	st.prefetch(batch, &cached)
	version := st.tableVersion
	rx := rxContext{now: now}
	for i := range batch {
		rx.from = batch[i].Path
		for datagram := range batch[i].Segments() {
			var err error
			rx.packet, rx.keys = datagram, nil
			if rx.header, err = wire.ParseHeader(datagram); err != nil {
				st.counters.Malformed++
				continue
			}
			if st.steer.Shards > 1 && st.steer.Shard(rx.routingIndex()) != st.id {
				misrouted = append(misrouted, transport.Packet{Data: datagram, Path: rx.from})
				continue
			}
			if rx.header.Level == wire.LevelTransport {
				if i < batchSize && cached[i].index == rx.header.ReceiverIdx && version == st.tableVersion {
					rx.keys = cached[i].keys
				} else {
					rx.keys = st.sessions.Find(rx.header.ReceiverIdx)
				}
			}
			st.handlePacket(&rx)
		}
	}
	return misrouted
}

// routingIndex returns the index that selects the packet's shard.
func (rx *rxContext) routingIndex() uint32 {
	if rx.header.ReceiverIdx != 0 {
		return rx.header.ReceiverIdx
	}
	index, _ := wire.ReceiverIdx(rx.packet)
	return index
}

// prefetch looks up the sessions of a batch and touches the fields that Open reads first, to pull
// them into cache: the misses of a batch overlap, where handling one packet after the other would
// wait for each. The first packet of a GSO train stands for all.
func (st *shardState) prefetch(batch []transport.Packet, cached *[batchSize]lookup) {
	n := min(len(batch), batchSize)
	for i := range batch[:n] {
		if index, ok := wire.ReceiverIdx(batch[i].Data); ok {
			cached[i] = lookup{index, st.sessions.Find(index)}
		}
	}
	if n < 2 {
		return
	}
	for _, l := range cached[:n] {
		if l.keys != nil {
			st.prefetched += l.keys.Prefetch()
		}
	}
}

// handlePacket handles one packet of this shard.
func (st *shardState) handlePacket(rx *rxContext) {
	switch {
	case rx.from.Transport == path.UDP && len(rx.packet) > st.maxDatagram:
		st.counters.Malformed++
	case rx.header.Level == wire.LevelTransport && rx.keys != nil:
		st.handleTransport(rx)
	case rx.header.Level == wire.LevelTransport:
		st.handleUnknownIndex(rx)
	case len(rx.packet) > maxHandshakePacket:
		st.counters.Malformed++
	case rx.header.Level == wire.LevelHandshake && !st.handshakes.Has(rx.header.ReceiverIdx):
		st.handleUnknownIndex(rx)
	case rx.header.Level == wire.LevelClear && !st.handshakes.Verify(rx.packet):
		st.counters.Forged++
	default: // only packets that can belong to a handshake are queued
		class := st.handshakes.Class(rx.now, rx.header, rx.packet, rx.from)
		st.counters.HandshakeStale += uint64(st.scheduler.push(rx, class))
		st.runQueued() // at once if there is time: the next packets may need the session
	}
}

// handleHandshakePacket handles a packet of level 1 or 2.
func (st *shardState) handleHandshakePacket(rx *rxContext) {
	switch {
	case rx.header.Level == wire.LevelHandshake:
		st.handleHandshake3(rx)
	case st.closing:
		st.count(st.handshakes.RejectShutdown(rx.now, rx.header, rx.packet, rx.from, &st.output))
	default:
		err := st.handshakes.HandleClear(rx.now, rx.header, rx.packet, rx.from, &st.output)
		st.count(err)
		st.noteUnlisted(rx, err)
	}
}

// handleTransport handles a packet of an established session.
func (st *shardState) handleTransport(rx *rxContext) {
	st.scheduler.lastDatagram = rx.now
	session := rx.keys.Session()
	t, content, err := rx.keys.OpenParsed(rx.now, rx.header, rx.packet, rx.from, &st.output)
	if err != nil {
		st.count(err)
		st.applyEvents(session)
		return
	}
	var wait time.Duration
	if t == wire.TypePoll {
		wait = st.handlePoll(rx, content)
	} else {
		st.handleMessage(rx, session, t, content)
	}
	st.applyEvents(session)
	st.noteTCPConn(session, rx.from, wait)
	if t == wire.TypePong {
		st.redirectToUDP(session)
	}
}

func (st *shardState) handleMessage(rx *rxContext, session *state.Session, t wire.Type, content []byte) {
	switch t {
	case wire.TypeEncryptedData:
		st.handleData(rx, session.User.(*client), content)
	case wire.TypeForwardPacket:
		st.handleForward(rx, session.User.(*client), content)
	case wire.TypeFlowClosed:
		st.handleFlowClosed(session.User.(*client), content)
	case wire.TypeSubsessionKK1, wire.TypeSubsessionAbort:
		st.queueRekey(rx, session.User.(*client), t, content)
	case wire.TypeRegister:
		st.queueRegister(rx, session.User.(*client), content)
	default:
		st.count(session.Control(rx.now, rx.keys, t, content, rx.from, &st.output))
	}
}

// handlePoll handles a Poll and returns how long its connection may wait.
func (st *shardState) handlePoll(rx *rxContext, content []byte) time.Duration {
	m, err := wire.ParsePoll(content)
	switch {
	case err != nil:
		st.counters.Malformed++
		return 0
	case rx.from.Transport != path.TCP:
		st.counters.Misplaced++
		return 0
	}
	st.counters.Polls++
	return min(time.Duration(m.WaitMillis)*time.Millisecond, st.config.TCP.PollWait)
}

// handleHandshake3 handles a Handshake 3, then the packets that overtook it.
func (st *shardState) handleHandshake3(rx *rxContext) {
	if !st.handshakes.Has(rx.header.ReceiverIdx) {
		st.handleUnknownIndex(rx)
		return
	}
	answers := len(st.output.Packets)
	session, early, err := st.handshakes.HandleHandshake3(rx.now, rx.header, rx.packet, rx.from, &st.output)
	st.count(err)
	st.noteUnlisted(rx, err)
	if session == nil {
		keys := st.sessions.Find(rx.header.ReceiverIdx)
		if err == nil && keys != nil && rx.from.SameSource(keys.Session().Path()) {
			st.acknowledge(answers, rx.from) // a copy, which repeats the Ack
		}
		return
	}
	fits := st.addClient(rx.now, session)
	st.table.write(func() { st.sessions.Add(session) })
	st.tableVersion++
	st.acknowledge(answers, rx.from)
	if fits {
		st.awaitRegistration(session.User.(*client), rx.now.Add(RegistrationTime))
	}
	if !fits {
		st.counters.SessionsRefused++
		if line := st.config.Logger.Check(zap.WarnLevel, "refused a session; its client or network has too many"); line != nil {
			line.Write(zap.String("source", path.MaskAddr(rx.from.Peer.Addr())))
		}
		session.Close(wire.CloseBound, "too many sessions of this client or of its network", &st.output)
		st.applyEvents(session)
		return
	}
	if st.closing {
		st.closeShuttingDown(session)
		return
	}
	if rx.from.Transport == path.TCP {
		if line := st.config.Logger.Check(zap.InfoLevel, "a client connects over TCP"); line != nil {
			line.Write(session.User.(*client).handleField(), zap.String("source", path.MaskAddr(rx.from.Peer.Addr())))
		}
	}
	for _, p := range early {
		next := rxContext{now: rx.now, packet: p.Data, from: p.Path}
		if next.header, err = wire.ParseHeader(p.Data); err == nil {
			next.keys = st.sessions.Find(next.header.ReceiverIdx)
			st.handlePacket(&next)
		}
	}
}

// noteUnlisted records the identity of a client that is refused because it is not listed.
func (st *shardState) noteUnlisted(rx *rxContext, err error) {
	var refused *state.NotListedError
	if err == nil || !errors.As(err, &refused) {
		return
	}
	e, added := st.unlisted.Add(rx.now, refused.Client, rx.from.Peer.Addr())
	if added && st.config.OnUnlisted != nil {
		st.config.OnUnlisted(e)
	}
}

// handleUnknownIndex handles a sealed packet without a session: it is buffered for Handshake 3, or
// dropped.
func (st *shardState) handleUnknownIndex(rx *rxContext) {
	index := rx.header.ReceiverIdx
	if st.handshakes.Has(index) {
		st.count(st.handshakes.BufferEarly(rx.header, rx.packet, rx.from))
		return
	}
	st.counters.Unknown++
}

// count counts a dropped packet under its reason.
func (st *shardState) count(err error) {
	switch {
	case err == nil:
	case state.IsReplay(err):
		st.counters.Replayed++
	case errors.Is(err, seal.ErrOpen):
		st.counters.Forged++
	case errors.Is(err, state.ErrUnexpectedMessage), errors.Is(err, state.ErrWrongLevel), errors.Is(err, state.ErrStale):
		st.counters.Misplaced++
	default:
		st.counters.Refused++
	}
}
