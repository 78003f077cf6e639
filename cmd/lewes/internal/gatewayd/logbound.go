package gatewayd

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"lewes/state/ratelimit"
)

// Bounds of a log. Anyone on the network can cause some messages.
const (
	linesPerMinute  = 10  // of one message
	maxLogMessages  = 256 // that are told apart; they are constants of the program
	logCountsPeriod = 10 * time.Second
)

// boundedCore writes the first lines of each message in a minute, and then their count.
type boundedCore struct {
	zapcore.Core
	counts *logCounts // shared with the cores that With returns
}

// logCounts counts the lines by message. It is safe for concurrent use.
type logCounts struct {
	mu       sync.Mutex
	messages map[string]*logCount
}

type logCount struct {
	ratelimit.Repeats
	level zapcore.Level
}

func (c *boundedCore) With(fields []zapcore.Field) zapcore.Core {
	return &boundedCore{c.Core.With(fields), c.counts}
}

func (c *boundedCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(e.Level) {
		return checked
	}
	skipped, ok := c.counts.add(e)
	switch {
	case !ok:
		return checked
	case skipped > 0:
		return checked.AddCore(e, c.Core.With([]zapcore.Field{notLogged(skipped)}))
	}
	return checked.AddCore(e, c.Core)
}

// notLogged is the field with the number of lines of the same message that were not written.
func notLogged(n uint64) zapcore.Field { return zap.Uint64("others_not_logged", n) }

func (l *logCounts) add(e zapcore.Entry) (skipped uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.messages[e.Message]
	if m == nil {
		if l.messages == nil {
			l.messages = make(map[string]*logCount)
		}
		key := e.Message
		if len(l.messages) >= maxLogMessages {
			key = "other messages"
		}
		if m = l.messages[key]; m == nil {
			m = new(logCount)
			l.messages[key] = m
		}
	}
	m.level = e.Level
	return m.Add(e.Time, linesPerMinute)
}

// serve writes the counts of messages that do not come again, until ctx is done.
func (c *boundedCore) serve(ctx context.Context) {
	tick := time.NewTicker(logCountsPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			c.flush(now)
		}
	}
}

func (c *boundedCore) flush(now time.Time) {
	c.counts.mu.Lock()
	defer c.counts.mu.Unlock()
	for message, m := range c.counts.messages {
		if n := m.Flush(now); n > 0 {
			_ = c.Core.Write(zapcore.Entry{Level: m.level, Time: now, Message: message}, []zapcore.Field{notLogged(n)}) // the writer counts failures
		}
	}
}
