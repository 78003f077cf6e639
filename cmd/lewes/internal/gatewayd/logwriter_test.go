package gatewayd

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"lewes/crypto/identity"
	"lewes/router/access"
	"lewes/router/unlisted"
)

// Of one message, ten lines are written in a minute, and then one with the count of the others, whether or
// not it comes again.
func TestRepeatedMessageBecomesACount(t *testing.T) {
	core, logged := observer.New(zap.InfoLevel)
	bounded := &boundedCore{core, new(logCounts)}
	log := zap.New(bounded).With(zap.Int("shard", 1))
	for range 100_000 {
		log.Warn("attack")
	}
	log.Info("another")
	log.Debug("below the level")
	if n := logged.FilterMessage("attack").Len(); n != linesPerMinute || logged.Len() != n+1 {
		t.Errorf("%d of %d lines in a minute", n, logged.Len())
	}
	logged.TakeAll()
	at := time.Now().Add(time.Minute)
	bounded.flush(at)
	lines := logged.TakeAll()
	if len(lines) != 1 || lines[0].Message != "attack" || lines[0].Level != zap.WarnLevel || lines[0].ContextMap()["others_not_logged"] != uint64(100_000-linesPerMinute) {
		t.Errorf("after the minute: %v", lines)
	}
	for i := range 2 * linesPerMinute {
		e := zapcore.Entry{Level: zap.WarnLevel, Message: "attack", Time: at.Add(time.Duration(i/(2*linesPerMinute-1)) * time.Minute)}
		bounded.Check(e, nil).Write()
	}
	lines = logged.TakeAll()
	if n := len(lines); n != linesPerMinute {
		t.Fatalf("%d lines", n)
	}
	if n := lines[linesPerMinute-1].ContextMap()["others_not_logged"]; n != uint64(linesPerMinute) {
		t.Errorf("the first of the next minute counts %v others", n)
	}
}

func TestMessagesToldApartAreBounded(t *testing.T) {
	core, logged := observer.New(zap.InfoLevel)
	bounded := &boundedCore{core, new(logCounts)}
	for i := range 10 * maxLogMessages {
		zap.New(bounded).Info(strings.Repeat("x", i))
	}
	if n := logged.Len(); n != maxLogMessages+linesPerMinute || len(bounded.counts.messages) != maxLogMessages+1 {
		t.Errorf("%d lines of %d messages", n, len(bounded.counts.messages))
	}
}

func TestUnlistedClientLine(t *testing.T) {
	core, logged := observer.New(zap.WarnLevel)
	a := &accessControl{log: zap.New(core)}
	a.rule.Store(&accessRule{path: "/srv/a list", list: new(access.List)})
	e := unlisted.Entry{Identity: identity.PublicKey{1}, Source: netip.MustParsePrefix("198.51.100.0/24")}
	a.logUnlisted(e)
	lines := logged.All()
	if len(lines) != 1 || !strings.Contains(lines[0].Message, "only if you know this identity") {
		t.Fatalf("%v", lines)
	}
	fields := lines[0].ContextMap()
	if fields["source"] != "198.51.100.0/24" || fields["add_with"] != "lewes clients add --file '/srv/a list' "+e.Identity.String() {
		t.Errorf("%v", fields)
	}
}

// testDisk is a writer whose writes wait for their outcome.
type testDisk struct {
	written bytes.Buffer
	began   chan struct{}
	outcome chan error
}

func (d *testDisk) Write(b []byte) (int, error) {
	d.began <- struct{}{}
	if err := <-d.outcome; err != nil {
		return 0, err
	}
	return d.written.Write(b)
}

// Lines that a writer does not take are counted without waiting for it, and their number is reported after
// the first write that succeeds.
func TestLogOutlivesItsWriter(t *testing.T) {
	d := &testDisk{began: make(chan struct{}), outcome: make(chan error)}
	l := newLogWriter(d)
	type report struct {
		lost uint64
		err  error
	}
	reports := make(chan report, 1)
	l.start(func(lost uint64, err error) { reports <- report{lost, err} })
	line := []byte(strings.Repeat("x", 1<<10-1) + "\n")
	write := func(n int) {
		for range n {
			if k, err := l.Write(line); k != len(line) || err != nil {
				t.Fatal(k, err)
			}
		}
	}
	write(1)
	<-d.began // and takes its time
	write(maxPendingLog/len(line) + 5)
	if !l.losing() {
		t.Error("five lines too many are not noticed")
	}
	full := errors.New("no space left on device")
	d.outcome <- full
	<-d.began
	d.outcome <- nil
	if got, want := <-reports, (report{1 + 5, full}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if l.losing() || d.written.Len() != maxPendingLog {
		t.Errorf("%d bytes written", d.written.Len())
	}
	write(1)
	<-d.began
	d.outcome <- nil
	l.Close()
	if d.written.Len() != maxPendingLog+len(line) {
		t.Errorf("%d bytes written at the end", d.written.Len())
	}
}
