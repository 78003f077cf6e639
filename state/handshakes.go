package state

import (
	"container/list"
	"errors"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/ratelimit"
	"lewes/state/wire"
)

// HandshakeStats are the counters of a ResponderTable. The tags describe their metrics.
type HandshakeStats struct {
	Hellos      uint64    `metric:"handshakes_total" label:"step=hello" help:"Handshake messages by outcome."`
	Repeated    uint64    `metric:"handshakes_total" label:"step=repeated"`
	Collisions  uint64    `metric:"handshakes_total" label:"step=collision"`
	Busy        uint64    `metric:"handshakes_total" label:"step=busy"`
	Cookies     uint64    `metric:"handshakes_total" label:"step=cookie"`
	Opened      uint64    `metric:"handshakes_total" label:"step=opened"`
	Failed      uint64    `metric:"handshakes_total" label:"step=failed"`
	Unlisted    uint64    `metric:"handshakes_total" label:"step=unlisted"`
	Established uint64    `metric:"handshakes_total" label:"step=established"`
	Evicted     uint64    `metric:"handshakes_total" label:"step=evicted"`
	Expired     uint64    `metric:"handshakes_total" label:"step=expired"`
	Rejects     [7]uint64 // by code
}

// Handshakes is a gateway shard's store of handshake records and answers every
// packet of a handshake. It has one owner and no lock.
type ResponderTable struct {
	config  *GatewayConfig
	mac     *cookie.MAC1Key
	jar     *cookie.Jar
	records map[uint32]*record // by index; those of one index are siblings
	count   int
	timers  Deadlines[*record]

	// Records in the order in which they would be evicted: those that failed,
	// those that wait for Handshake 1, those that wait for Handshake 3, and
	// those that only answer repetitions.
	failed, waiting, opened, done *list.List

	others, gateways budgets // of hellos, of other gateways' apart
	tries            int     // of Handshake 1 in this second
	triesLast        int     // in the last one
	second           int64
	earlyBytes       int
	Stats            HandshakeStats
}

// budgets are those of one kind of source. What shows by a cookie, or by TCP, that
// its address is its own has a budget that nobody who forges the address can use up.
type budgets struct{ proved, plain *ratelimit.Table }

func newBudgets(now time.Time, rate float64, burst int, seed uint64) budgets {
	return budgets{
		proved: ratelimit.NewTable(now, rate, burst, seed),
		plain:  ratelimit.NewTable(now, rate, burst, seed+1),
	}
}

// NewHandshakes returns an empty store.
func NewResponderTable(now time.Time, config *GatewayConfig) (*ResponderTable, error) {
	private, public := config.Identity.X25519()
	config.Session.Static.Private, config.Session.Static.Public = private, public
	seed, err := randomIndex(config.Session.Rand)
	if err != nil {
		return nil, err
	}
	rate, burst := or(config.Rate, 20), or(config.Burst, 40)
	trusted := or(config.TrustedRate, 1000)
	return &ResponderTable{
		config:   config,
		mac:      cookie.NewMAC1Key(config.Identity.Public()),
		jar:      cookie.NewJar(config.Session.Rand),
		records:  make(map[uint32]*record),
		failed:   list.New(),
		waiting:  list.New(),
		opened:   list.New(),
		done:     list.New(),
		others:   newBudgets(now, rate, burst, uint64(seed)),
		gateways: newBudgets(now, trusted, int(trusted), uint64(seed)+2),
	}, nil
}

// SessionConfig returns the configuration of the sessions that come of handshakes,
// for those that are read.
func (h *ResponderTable) SessionConfig() *SessionConfig { return &h.config.Session }

// Len returns the number of records.
func (h *ResponderTable) Len() int { return h.count }

// Has reports whether an index names a record.
func (h *ResponderTable) Has(index uint32) bool { return h.records[index] != nil }

// MAC1 returns the key of clear packets' trailers.
func (h *ResponderTable) MAC1() *cookie.MAC1Key { return h.mac }

// Clear handles a packet of level 2. The caller has checked its size; MAC1 is
// checked here, before anything else. An error says that nothing was answered.
func (h *ResponderTable) HandleClear(now time.Time, header wire.Header, packet []byte, from path.Path, out *Output) error {
	t, content, err := h.readClear(now, header, packet, from, out)
	if err != nil {
		return err
	}
	if t == wire.TypeClientHello {
		return h.hello(now, packet, content, from, out)
	}
	if t == wire.TypeKKTRequest && short(packet, from) {
		return wire.ErrShort
	}
	return h.route(now, header, t, packet, content, from, out)
}

// readClear returns what is in a packet of level 2. It answers a hello of another
// version; nothing else is.
func (h *ResponderTable) readClear(now time.Time, header wire.Header, packet []byte, from path.Path, out *Output) (wire.Type, []byte, error) {
	if !h.mac.Verify(packet) {
		return 0, nil, ErrMAC1
	}
	t, content, err := wire.ParseBody(wire.Body(packet))
	if errors.Is(err, wire.ErrVersion) {
		return 0, nil, h.rejectVersion(now, header, packet, from, out)
	}
	if err != nil {
		return 0, nil, err
	}
	if !header.Allows(t, wire.ToGateway) {
		return 0, nil, ErrUnexpectedMessage
	}
	return t, content, nil
}

// readHello returns the hello in a ClientHello.
func readHello(packet, content []byte, from path.Path) (wire.ClientHello, error) {
	if short(packet, from) {
		return wire.ClientHello{}, wire.ErrShort
	}
	return wire.ParseClientHello(content)
}

func (h *ResponderTable) countFirst(opened bool, err error) {
	switch {
	case opened:
		h.Stats.Opened++
	case errors.Is(err, ErrNotListed):
		h.Stats.Unlisted++
	case err != nil:
		h.Stats.Failed++
	}
}

// short reports whether a hello or KKT request over UDP lacks its padding.
func short(packet []byte, from path.Path) bool {
	return from.Transport == path.UDP && len(packet) < wire.MinHelloDatagram
}

// Sealed handles a packet of level 1, Handshake 3. It returns the session that it
// makes, with the transport packets that came before it, in their order.
func (h *ResponderTable) HandleHandshake3(now time.Time, header wire.Header, packet []byte, out *Output) (*Session, []Packet, error) {
	err := error(ErrStale)
	for r := h.records[header.ReceiverIdx]; r != nil; r = r.sibling {
		var s *Session
		if s, err = r.handleThird(now, packet, out); s != nil {
			h.Stats.Established++
			early := r.takeEarly()
			h.settle(r)
			return s, early, nil
		}
		if err == nil {
			break // a copy, answered
		}
	}
	return nil, nil, err
}

// Keep holds a transport packet for a session whose Handshake 3 is on its way.
func (h *ResponderTable) BufferEarly(header wire.Header, packet []byte, from path.Path) error {
	err := error(ErrStale)
	for r := h.records[header.ReceiverIdx]; r != nil; r = r.sibling {
		if !r.from(from) {
			err = ErrWrongSource
		} else if err = r.keep(packet, from); err == nil {
			return nil
		}
	}
	return err
}

// Tick forgets records whose time is up.
func (h *ResponderTable) Tick(now time.Time) {
	for h.TickOne(now) {
	}
}

// TickOne is Tick for one record, and reports whether there was one.
func (h *ResponderTable) TickOne(now time.Time) bool {
	r, ok := h.timers.Pop(now)
	if !ok {
		return false
	}
	if r.session == nil {
		h.Stats.Expired++
	}
	h.remove(r)
	return true
}

// Next returns when Tick has something to do; zero means never.
func (h *ResponderTable) Next() time.Time { return h.timers.Next() }

// hello handles a ClientHello in the order of section 4, each step cheaper than
// the next.
func (h *ResponderTable) hello(now time.Time, packet, content []byte, from path.Path, out *Output) error {
	hello, err := readHello(packet, content, from)
	if err != nil {
		return err
	}
	h.Stats.Hellos++
	if clockOff(h.config.wall(now), hello.Seconds()) > h.config.tolerance() {
		h.reject(now, hello.ReceiverIdx, wire.RejectClock, from, out)
		return ErrClockSkew
	}
	if r := h.find(&hello, from); r != nil {
		h.Stats.Repeated++
		if r.first == nil {
			r.in += len(packet)
		}
		return r.sendAck(from, out)
	}
	if h.taken(hello.ReceiverIdx) {
		h.Stats.Collisions++
		out.send(from, clearPacket(h.mac, hello.ReceiverIdx, wire.TypeCollision, &wire.Collision{}))
		return nil
	}
	pair, suite, code := h.choose(&hello)
	if code != 0 {
		h.reject(now, hello.ReceiverIdx, code, from, out)
		return nil
	}
	if busy := h.load(now, &hello, from); busy != nil {
		h.Stats.Busy++
		out.send(from, clearPacket(h.mac, hello.ReceiverIdx, wire.TypeBusy, busy))
		return nil
	}
	return h.open(now, &hello, pair, suite, len(packet), from, out)
}

// clockOff returns how far a client's clock, in whole seconds, is from ours.
func clockOff(now time.Time, seconds uint64) time.Duration {
	ours := uint64(now.Unix())
	off := max(ours, seconds) - min(ours, seconds)
	return time.Duration(min(off, 1<<32)) * time.Second
}

// choose returns the KEM key and the AEAD for a hello, or why there is none.
func (h *ResponderTable) choose(hello *wire.ClientHello) (*kem.KeyPair, seal.Suite, wire.RejectCode) {
	if !h.config.KEMs.Offered(kem.ID(hello.KEM)) {
		return nil, 0, wire.RejectKEM
	}
	offer := seal.Suite(hello.AEADOffer)
	suite, ok := seal.Choose(offer, h.config.Suites)
	if !ok || offer&seal.ChaCha20Poly1305 == 0 { // which every client must offer
		return nil, 0, wire.RejectAEAD
	}
	pair := h.config.KEMs.Find(kem.ID(hello.KEM), hello.KEMKeyID)
	if pair == nil {
		return nil, 0, wire.RejectStaleKey
	}
	return pair, suite, 0
}

// load decides whether the hello has to come back later, or with a cookie.
func (h *ResponderTable) load(now time.Time, hello *wire.ClientHello, from path.Path) *wire.Busy {
	h.roll(now)
	source := from.Peer.Addr()
	if h.config.Full != nil && h.config.Full() {
		return h.busy(fullWait)
	}
	proved := from.Transport == path.TCP || hello.HasCookie && h.jar.Valid(now, from.Peer, hello.ReceiverIdx, &hello.Salt, hello.Cookie[:])
	budgets := &h.others
	if h.config.Trusted != nil && h.config.Trusted(source) {
		budgets = &h.gateways
	}
	if proved {
		if wait, ok := budgets.proved.Take(now, source); !ok {
			return h.busy(wait)
		}
		return nil
	}
	if _, ok := budgets.plain.Take(now, source); ok && !h.crowded() {
		return nil
	}
	busy := h.busy(budgets.proved.Wait(now, source)) // the hello comes again with the cookie
	if made, err := h.jar.Make(now, from.Peer, hello.ReceiverIdx, &hello.Salt); err == nil {
		h.Stats.Cookies++
		busy.HasCookie, busy.Cookie = true, made
	}
	return busy
}

// crowded reports whether every hello needs a cookie now.
func (h *ResponderTable) crowded() bool {
	return h.count > h.config.maxRecords()/2 || max(h.tries, h.triesLast) > h.config.triesASecond()
}

// fullWait is after how long it is worth asking again whether there is room: nobody
// knows when a session ends.
const fullWait = time.Second

// busy says to come back after wait, or once what waits now has been worked off,
// where that takes longer.
func (h *ResponderTable) busy(wait time.Duration) *wire.Busy {
	if h.config.QueueDelay != nil {
		wait = max(wait, h.config.QueueDelay())
	}
	return &wire.Busy{RetryAfterMillis: millis(wait)}
}

func millis(d time.Duration) uint32 { return uint32((d + time.Millisecond - 1) / time.Millisecond) }

// roll starts a new second of counting tries.
func (h *ResponderTable) roll(now time.Time) {
	if second := now.Unix(); second != h.second {
		h.triesLast = 0
		if second == h.second+1 {
			h.triesLast = h.tries
		}
		h.second, h.tries = second, 0
	}
}

func (h *ResponderTable) triedFirst() { h.tries++ }

// open stores a record and answers with its Ack.
func (h *ResponderTable) open(now time.Time, hello *wire.ClientHello, pair *kem.KeyPair, suite seal.Suite, size int, from path.Path, out *Output) error {
	if h.count >= h.config.maxRecords() {
		h.evict()
	}
	ack := wire.Ack{AEAD: uint8(suite), KEM: hello.KEM}
	if _, err := h.config.Session.Rand.Read(ack.Nonce[:]); err != nil {
		return err
	}
	r := &record{
		store:     h,
		index:     hello.ReceiverIdx,
		hello:     hello.Hello(),
		salt:      hello.Salt,
		source:    from,
		created:   now,
		suite:     suite,
		kem:       pair,
		keyID:     hello.KEMKeyID,
		ack:       ack.Append(nil),
		in:        size,
		assembler: parts.Assembler{Limit: parts.MaxHandshake},
	}
	h.store(r, now.Add(h.config.recordTTL()))
	return r.sendAck(from, out)
}

// store adds a record that waits for Handshake 1.
func (h *ResponderTable) store(r *record, until time.Time) {
	r.timer.Value = r
	r.sibling = h.records[r.index]
	h.records[r.index] = r
	h.count++
	h.timers.Set(&r.timer, until)
	h.requeue(r, h.waiting)
}

// requeue moves a record to the end of another queue.
func (h *ResponderTable) requeue(r *record, to *list.List) {
	if r.place != nil {
		r.queue.Remove(r.place)
	}
	r.queue, r.place = to, to.PushBack(r)
}

// evict makes room: failed records go first, then idle ones, then the oldest.
func (h *ResponderTable) evict() {
	for _, queue := range []*list.List{h.failed, h.done, h.waiting, h.opened} {
		if oldest := queue.Front(); oldest != nil {
			h.Stats.Evicted++
			h.remove(oldest.Value.(*record))
			return
		}
	}
}

func (h *ResponderTable) remove(r *record) {
	h.timers.Set(&r.timer, time.Time{})
	r.queue.Remove(r.place)
	r.takeEarly()
	r.wipeSecrets()
	h.count--
	if head := h.records[r.index]; head != r {
		for head.sibling != r {
			head = head.sibling
		}
		head.sibling = r.sibling
	} else if r.sibling != nil {
		h.records[r.index] = r.sibling
	} else {
		delete(h.records, r.index)
	}
}

func (h *ResponderTable) reject(now time.Time, index uint32, code wire.RejectCode, to path.Path, out *Output) {
	h.Stats.Rejects[code]++
	m := wire.Reject{Code: code, GatewaySeconds: uint64(h.config.wall(now).Unix())}
	out.send(to, clearPacket(h.mac, index, wire.TypeReject, &m))
}

// rejectVersion answers a hello of another version, which has the receiver_index
// where this version has it.
func (h *ResponderTable) rejectVersion(now time.Time, header wire.Header, packet []byte, from path.Path, out *Output) error {
	if header.ReceiverIdx != 0 || short(packet, from) {
		return wire.ErrVersion
	}
	index, _ := wire.ReceiverIdx(packet)
	h.reject(now, index, wire.RejectVersion, from, out)
	return wire.ErrVersion
}

// Refuse handles a packet of level 2 while the gateway shuts down: a hello that is
// one gets a Reject, everything else is dropped.
func (h *ResponderTable) RejectShutdown(now time.Time, header wire.Header, packet []byte, from path.Path, out *Output) error {
	t, content, err := h.readClear(now, header, packet, from, out)
	if err != nil {
		return err
	}
	if t != wire.TypeClientHello {
		return ErrClosed
	}
	hello, err := readHello(packet, content, from)
	if err != nil {
		return err
	}
	h.reject(now, hello.ReceiverIdx, wire.RejectShuttingDown, from, out)
	return nil
}

// Reset builds a Reset for an index that nobody knows (section 11).
func (h *ResponderTable) Reset(index uint32) []byte {
	return clearPacket(h.mac, index, wire.TypeReset, &wire.Reset{})
}
