package portforward

import (
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"lewes/state/ratelimit"
)

// maxFailureKinds bounds the kinds that a port tells apart.
const maxFailureKinds = 16

// failureLog logs the failures of a port: the first of a kind at once, then one line a minute with a count.
type failureLog struct {
	mu    sync.Mutex
	kinds map[string]*failures
}

// failures are those of one kind.
type failures struct {
	repeats ratelimit.Repeats
	last    error
}

func kindOf(err error) string {
	if errors.Is(err, syscall.EMSGSIZE) { // whose text has the datagram's size
		return "size"
	}
	return err.Error()
}

// add logs a failure, or counts it.
func (l *failureLog) add(now time.Time, log *slog.Logger, target string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kind := kindOf(err)
	f := l.kinds[kind]
	if f == nil && len(l.kinds) >= maxFailureKinds {
		kind = "" // one for all others
		f = l.kinds[kind]
	}
	if f == nil {
		f = new(failures)
		if l.kinds == nil {
			l.kinds = make(map[string]*failures)
		}
		l.kinds[kind] = f
	}
	f.last = err
	if skipped, ok := f.repeats.Add(now, 1); ok {
		f.log(log, target, skipped+1)
	}
}

// flush logs what was counted, where its time has come, and forgets kinds that no longer occur.
func (l *failureLog) flush(now time.Time, log *slog.Logger, target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind, f := range l.kinds {
		if f.repeats.Idle(now) {
			delete(l.kinds, kind)
		} else if n := f.repeats.Flush(now); n > 0 {
			f.log(log, target, n)
		}
	}
}

func (f *failures) log(log *slog.Logger, target string, times uint64) {
	log.Warn("forwarding failed", slog.String("target", target), slog.Uint64("times", times), slog.String("error", f.last.Error()))
}
