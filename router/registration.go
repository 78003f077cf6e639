package router

import (
	"time"

	"lewes/router/meter"
	"lewes/router/registrar"
	"lewes/state"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// Registration is the configuration of a gateway that answers Register (section 9 of PROTOCOL.md).
type Registration struct {
	// Registrar carries out Registers; nil: they are not answered. Its owner closes it after the gateway.
	Registrar *registrar.Registrar
	// Required means that a session carries no data before a registration. One without is closed after
	// RegistrationTime, and all such sessions hold at most a tenth of MaxSessions.
	Required bool
}

const (
	// RegistrationTime is how long a session may do without a required registration.
	RegistrationTime = 30 * time.Second
	// UnregisteredShare is the part of all sessions that those without a required registration may hold.
	UnregisteredShare = 10
)

// flags returns what the Ack of a session announces of registrations.
func (r *Registration) flags() (flags wire.AckFlags) {
	if r.Registrar != nil {
		flags |= wire.AckRegisters
	}
	if r.Required {
		flags |= wire.AckRegistrationRequired
	}
	return flags
}

// costRegister is the cost of a packet of a Register: of one that is complete with the public-key operations
// of its worker, which share the processors with the shards.
const costRegister = 200 * time.Microsecond

// queueRegister handles a part of a Register, and queues a complete one.
func (st *shardState) queueRegister(rx *rxContext, c *client, content []byte) {
	if st.config.Registration.Registrar == nil {
		st.counters.Misplaced++
		return
	}
	if !st.charge(rx.now, c, costRegister) {
		return // the client repeats it
	}
	request, err := c.session.HandleRegister(rx.now, rx.keys, content, rx.from, &st.output)
	st.count(err)
	if request != nil {
		st.counters.Registers++
		st.work.push(c, task{register: c, request: request})
		st.runQueued()
	}
}

// runRegister is the task of a Register: it goes to a worker, whose result comes back as a batch of its own.
func (st *shardState) runRegister(c *client, request *state.RegisterRequest) {
	if c.dropped {
		return
	}
	q := &registrar.Request{Client: c.session.Peer(), Exporter: c.session.Exporter(), Message: request.Message}
	env := st.shardEnv
	submitted := st.config.Registration.Registrar.Submit(q, func(result *wire.RegisterResult, registration registrar.Registration) {
		env.do(func(_ time.Time, st *shardState) { st.finishRegister(c, request.ID, result, registration) })
	})
	if !submitted {
		st.config.Registration.Registrar.Count(wire.CodeBusy)
		busy := wire.RegisterResult{Code: wire.CodeBusy, Error: wire.Detail("the gateway is busy: try again"), Remaining: wire.Unlimited}
		st.finishRegister(c, request.ID, &busy, registrar.Registration{})
	}
}

// finishRegister answers a Register, whose session may have ended meanwhile.
func (st *shardState) finishRegister(c *client, id uint32, result *wire.RegisterResult, registration registrar.Registration) {
	if c.dropped {
		return
	}
	if result.OK() && registration.Mode != wire.ModeBalance {
		st.endUnregistered(c)
		st.register(c, registration.Mode, registration.Grants, registration.Unlimited)
	}
	if b := st.balance(c); result.OK() && b != nil && !registration.Paid {
		result.Remaining, result.ExpiresAt = b.Bytes, uint64(b.Expires)
	}
	c.session.FinishRegister(id, result.AppendCBOR(nil), &st.output)
	st.applyEvents(c.session)
}

// balance returns what a client's account has left, which the ledger has learned of up to the last second; nil if
// it is not counted here.
func (st *shardState) balance(c *client) *meter.Balance {
	if st.meter == nil {
		return nil
	}
	b, found := st.meter.Balance(c.session.Peer())
	if !found || b.Unlimited {
		return nil
	}
	return &b
}

// awaitRegistration gives a new session RegistrationTime to register. Those without a registration that would end first
// give way. Each shard has its part of their bound, so that no one who fills another shard keeps clients out of this one.
func (st *shardState) awaitRegistration(c *client, until time.Time) {
	if !st.config.Registration.Required {
		return
	}
	most := max(1, st.limits.Load().MaxSessions/UnregisteredShare/st.config.Shards)
	for st.unregistered.Len() >= most && st.evictUnregistered() {
	}
	st.addUnregistered(c, until)
}

// codeUnregistered codes whether a session waits for its required registration. At a successor its time begins
// again.
func (st *shardState) codeUnregistered(c *snapshot.Codec, owner *client) {
	without := owner.unregistered != nil
	c.Bool(&without)
	if c.Decoding() && c.Err() == nil && without && st.config.Registration.Required {
		st.addUnregistered(owner, st.now().Add(RegistrationTime))
	}
}

// requireRegistration ends a session taken over that has not had to register so far and has to from now on: its
// client cannot know, and registers in its next session.
func (st *shardState) requireRegistration(c *client) {
	if st.config.Registration.Required && c.registered.Load() == nil && c.unregistered == nil {
		st.addUnregistered(c, st.now())
	}
}

func (st *shardState) addUnregistered(c *client, until time.Time) {
	c.unregistered = &state.Timer[*client]{}
	c.unregistered.Value = c
	st.unregistered.Set(c.unregistered, until)
}

// endUnregistered ends the wait for a session's registration.
func (st *shardState) endUnregistered(c *client) {
	if c.unregistered != nil {
		st.unregistered.Set(c.unregistered, time.Time{})
		c.unregistered = nil
	}
}

const unregisteredDetail = "this gateway requires a registration"

// evictUnregistered closes the session without a registration that would end first in this shard, and reports
// whether there was one.
func (st *shardState) evictUnregistered() bool {
	c, ok := st.unregistered.Pop(st.unregistered.Next())
	if ok {
		st.counters.UnregisteredEvicted++
		st.closeSession(c.session, wire.CloseBound, unregisteredDetail)
	}
	return ok
}

// expireUnregistered closes a session that did not register in time, and reports whether there was one.
func (st *shardState) expireUnregistered(now time.Time) bool {
	c, ok := st.unregistered.Pop(now)
	if ok {
		st.counters.UnregisteredExpired++
		st.closeSession(c.session, wire.CloseBound, unregisteredDetail)
	}
	return ok
}

// Registrations returns how many Registers had each code since the start.
func (g *Gateway) Registrations() map[wire.RegisterCode]uint64 {
	if g.config.Registration.Registrar == nil {
		return nil
	}
	return g.config.Registration.Registrar.Results()
}
