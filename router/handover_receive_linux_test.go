package router

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"lewes/router/handover"
	"lewes/state/wire"
)

// TestHandoverKeepsFlowAge checks that times are handed over relative to now: the clocks of the two
// gateways may differ by hours.
func TestHandoverKeepsFlowAge(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": 10 * time.Hour, "behind": -10 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			g, target := started(t, func(c *Config) {
				c.Clock = func() time.Time { return start.Add(off + time.Since(start)) }
				c.Tolerance = 24 * time.Hour
			})
			liveSessions(t, g, 1, target)
			next, _ := succeeded(t, g, func(c *Config) { c.Clock = nil })
			found := 0
			for _, s := range next.shards {
				s.Do(func(now time.Time, _ *shardState) {
					s.st.eachFlow(func(f *flow) {
						found++
						if age := now.Sub(time.Unix(0, f.lastDown.Load())); age < 0 || age > time.Minute {
							t.Errorf("the latest datagram arrived %v ago", age)
						}
					})
				})
			}
			if found != 1 {
				t.Errorf("%d flows", found)
			}
		})
	}
}

// TestInvalidSuccessorIsReported checks that the predecessor receives the reason of any failure.
func TestInvalidSuccessorIsReported(t *testing.T) {
	g, _ := started(t, nil)
	config := g.config
	config.Policy = nil
	ours, theirs := conversation(t)
	refused := make(chan error, 1)
	go func() {
		_, _, err := TakeOver(t.Context(), config, theirs)
		_ = theirs.Close()
		refused <- err
	}()
	if _, err := g.HandOver(t.Context(), ours, nil); !errors.Is(err, ErrRefused) {
		t.Errorf("%v", err)
	}
	if err := <-refused; err == nil {
		t.Error("a gateway without a policy")
	}
}

// TestSlowSuccessor checks that a successor gets the full timeout again after Commit.
func TestSlowSuccessor(t *testing.T) {
	defer func(d time.Duration) { handoverPatience = d }(handoverPatience)
	handoverPatience = 4 * time.Second
	almost := handoverPatience * 6 / 10
	g, target := started(t, nil)
	liveSessions(t, g, 1, target)
	ours, theirs := conversation(t)
	var successor sync.WaitGroup
	successor.Go(func() {
		for answered := false; ; {
			f, err := theirs.Receive()
			if err != nil {
				return
			}
			kind, barrier := f.Kind, f.Kind == handover.Sockets && len(f.Files) == 0
			f.Close()
			switch {
			case barrier, kind == handover.Sockets && !answered:
				answered = true
				_ = theirs.Send(handover.Ready, nil)
			case kind == handover.End:
				time.Sleep(almost)
				_ = theirs.Send(handover.Loaded, nil)
			case kind == handover.Commit:
				time.Sleep(almost)
				_ = theirs.Send(handover.Serving, nil)
			}
		}
	})
	if _, err := g.HandOver(t.Context(), ours, nil); err != nil {
		t.Error(err)
	}
	ours.Break()
	successor.Wait()
}

// lateResolver ignores its context and answers once goOn is closed.
type lateResolver struct{ asked, goOn chan struct{} }

func (r *lateResolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	close(r.asked)
	<-r.goOn
	return nil, errors.New("too late")
}

func TestLookupAfterCloseIsIgnored(t *testing.T) {
	r := &lateResolver{make(chan struct{}), make(chan struct{})}
	g, target := started(t, func(c *Config) { c.Resolver = r })
	c := liveSessions(t, g, 1, target)[0]
	name, err := wire.NameTarget("late.example", 53)
	if err != nil {
		t.Fatal(err)
	}
	c.send(t, &wire.EncryptedData{FlowID: 2, Flags: wire.FlagTarget, Target: name, Payload: []byte("x")})
	if !c.until(func() bool {
		select {
		case <-r.asked:
			return true
		default:
			return false
		}
	}) {
		t.Fatal("no name is looked up")
	}
	g.Close()
	close(r.goOn)
	for _, s := range g.shards { // the lookup ends with a batch, before or after this one
		s.Do(func(time.Time, *shardState) { t.Errorf("shard %d of a closed gateway ran a batch", s.id) })
		s.Tick()
		if s.st.timer.timer.Stop() {
			t.Errorf("shard %d of a gateway that was closed has its timer set", s.id)
		}
	}
}
