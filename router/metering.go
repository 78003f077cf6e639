package router

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/router/meter"
	"lewes/state"
	"lewes/state/ledger"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// Metering is the part of a registration that concerns the datapath: what a session may carry, and the
// count of it (section 9 of PROTOCOL.md).
type Metering struct {
	MixNode netip.AddrPort // the only target of sessions registered for the mixnet; zero: that mode is not offered
	// Serve makes the gateway carry traffic while usage cannot be recorded; otherwise it stops after
	// meter.MaxUnrecorded.
	Serve bool
	// Renew is meter.Config.Renew.
	Renew func([]identity.PublicKey)
}

// registration is what a registered session draws from. It is immutable.
type registration struct {
	share *meter.Share
	mode  wire.Mode
}

// newMeter returns the gateway's book of accounts, nil if nothing is counted.
func (g *Gateway) newMeter() *meter.Book {
	m := g.config.Metering
	if m == nil {
		return nil
	}
	failing := false
	return meter.NewBook(meter.Config{
		Shards: g.config.Shards,
		Now:    func() time.Time { return g.wall.corrected(g.config.Clock()) },
		Serve:  m.Serve,
		Renew:  m.Renew,
		Notify: g.notifyUsage,
		Failing: func(err error) {
			switch {
			case err == nil && failing:
				g.log.Info("recorded the bandwidth that clients have used again")
			case err != nil && !errors.Is(err, meter.ErrNoLedger): // a successor opens it later
				g.log.Error("cannot record the bandwidth that clients have used", zap.Error(err), zap.Bool("serves_on", m.Serve))
			default:
				return
			}
			failing = err != nil
		},
	})
}

// Meter returns the accounts of registered clients, nil without Config.Metering. The owner sets its ledger
// once that is open, and closes the ledger after Close or HandOver.
func (g *Gateway) Meter() *meter.Book { return g.meter }

// runMeter records usage until the returned function is called.
func (g *Gateway) runMeter() {
	if g.meter == nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.meter.Run(ctx)
	}()
	g.stopMeter = func() {
		stop()
		<-done
		g.stopMeter = nil
	}
}

// pauseMeter stops the records of usage. The shards are not locked: a notice may wait for them.
func (g *Gateway) pauseMeter() {
	if g.stopMeter != nil {
		g.stopMeter()
	}
}

// register makes a session one of a registered client. Grants are those of the ledger at most a minute ago.
func (st *shardState) register(c *client, mode wire.Mode, grants []ledger.Grant, unlimited bool) {
	if st.meter == nil || c.dropped {
		return
	}
	list, peer := meter.FromLedger(grants), c.session.Peer()
	if before := c.registered.Load(); before != nil {
		st.meter.Update(peer, list, unlimited)
		c.registered.Store(&registration{before.share, mode})
		return
	}
	c.registered.Store(&registration{st.meter.Join(st.id, peer, list, unlimited), mode})
}

// unregister ends the registration of a session.
func (c *client) unregister() {
	if r := c.registered.Swap(nil); r != nil {
		r.share.Leave()
	}
}

// mayCarry reports whether a session may use flows; otherwise a FlowClosed answers.
func (st *shardState) mayCarry(now time.Time, c *client, id uint16) bool {
	if !st.config.Registration.Required || c.registered.Load() != nil {
		return true
	}
	st.counters.NotRegistered++
	st.rejectFlow(now, c, id, wire.FlowNotRegistered, "")
	return false
}

// charge charges size bytes to the session's account. It takes no lock.
func (c *client) charge(size int) meter.Verdict {
	if r := c.registered.Load(); r != nil {
		return r.share.Charge(size)
	}
	return meter.Charged
}

// left returns what the session's account has left, 0 if it has none any more.
func (c *client) left() uint64 {
	if r := c.registered.Load(); r != nil {
		return r.share.Left()
	}
	return 0
}

const notRecorded = "the gateway cannot record the bandwidth used"

// mayOpen reports whether a session may open a flow for a datagram of size bytes, or why not.
func (c *client) mayOpen(size int) (reason wire.FlowReason, detail string) {
	r := c.registered.Load()
	if r == nil {
		return 0, ""
	}
	switch r.share.Check(size) {
	case meter.UsedUp:
		return wire.FlowBandwidth, ""
	case meter.Stopped:
		return wire.FlowBound, notRecorded
	}
	return 0, ""
}

const onlyMixNode = "this registration reaches the mix node only"

// mayReach reports whether the session's registration allows a target.
func (c *client) mayReach(target netip.AddrPort) bool {
	r := c.registered.Load()
	return r == nil || r.mode != wire.ModeMixnet || target == c.env.config.Metering.MixNode
}

// mayForward reports whether the session's registration allows flows to other gateways.
func (c *client) mayForward() bool {
	r := c.registered.Load()
	return r == nil || r.mode != wire.ModeMixnet
}

// recentlyActive is how recently a session must have received a packet to be notified of its account.
const recentlyActive = time.Minute

// notifyUsage notifies the sessions of accounts, and ends the flows of those that are used up.
func (g *Gateway) notifyUsage(notices []meter.Notice) {
	g.walk(context.Background(), func(*int) step { return notifyUsage(notices) })
}

func notifyUsage(notices []meter.Notice) step {
	var notice meter.Notice
	var clients []*client
	return func(st *shardState) int {
		if len(clients) == 0 {
			if len(notices) == 0 {
				return 0
			}
			notice, notices = notices[0], notices[1:]
			st.sessions.EachOfPeer(notice.Client, func(s *state.Session) {
				if c, ok := s.User.(*client); ok && c.registered.Load() != nil {
					clients = append(clients, c)
				}
			})
			return visitUnits + len(clients)
		}
		last := len(clients) - 1
		c := clients[last]
		if notice.UsedUp && c.left() <= notice.Balance.Bytes { // it may have more by now
			for _, f := range c.flows {
				st.closeFlow(f, wire.FlowBandwidth, "")
				return closeUnits
			}
			for _, f := range c.forwards {
				return st.closeForward(f, wire.FlowBandwidth, "")
			}
		}
		clients = slices.Delete(clients, last, last+1)
		if c.dropped || notice.Percent == 0 || st.now().Sub(c.session.LastOpened()) > recentlyActive {
			return visitUnits
		}
		c.session.SendUnasked(usageResult(&notice).AppendCBOR(nil), &st.output)
		return closeUnits
	}
}

// usageResult returns the unasked result for a notice.
func usageResult(n *meter.Notice) *wire.RegisterResult {
	r := &wire.RegisterResult{Code: wire.CodeOK, Remaining: n.Balance.Bytes, ExpiresAt: uint64(n.Balance.Expires)}
	if n.Percent == 100 {
		r.Code, r.Error = wire.CodeBandwidthUsedUp, wire.Detail("the bandwidth of this account is used up or has expired")
	}
	return r
}

// codeRegistration codes whether a session is registered, and for which mode.
func (st *shardState) codeRegistration(c *snapshot.Codec, owner *client) {
	mode := wire.Mode(0)
	if r := owner.registered.Load(); r != nil {
		mode = r.mode
	}
	registered := c.Present(owner.registered.Load() != nil)
	snapshot.Byte(c, &mode)
	if !c.Decoding() || c.Err() != nil {
		return
	}
	if registered && st.meter != nil {
		if share := st.meter.Rejoin(st.id, owner.session.Peer()); share != nil {
			owner.registered.Store(&registration{share, mode})
			if !st.config.Registration.Required { // any more: its client does not register again
				st.meter.Update(owner.session.Peer(), nil, true)
			}
		}
	}
}

// closeMeter records the last usage. Nothing is charged any more. After a handover it belongs to the
// successor.
func (g *Gateway) closeMeter() {
	if g.stopMeter == nil {
		return
	}
	g.pauseMeter()
	ctx, stop := context.WithTimeout(context.Background(), meter.MaxUnrecorded)
	defer stop()
	if err := g.meter.Flush(ctx); err != nil {
		g.log.Error("cannot record the last bandwidth that clients have used", zap.Error(err))
	}
}

// addMeterStats adds the counters of the accounts of registered clients.
func (g *Gateway) addMeterStats(sum *Stats) {
	if g.meter == nil {
		return
	}
	m := g.meter.Stats()
	sum.MeterAccounts, sum.MeterUsed, sum.MeterUnrecorded, sum.MeterFailed = m.Accounts, m.Used, m.Unrecorded, m.Failed
	if m.Stopped {
		sum.MeterStopped = 1
	}
}
