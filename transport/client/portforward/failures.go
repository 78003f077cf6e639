package portforward

import (
	"errors"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

const (
	// failureInterval is the least time between two lines about failures of one kind.
	failureInterval = time.Minute
	// maxFailureKinds bounds the kinds that a port tells apart.
	maxFailureKinds = 16
)

// failureLog logs the failures of a port: the first of a kind at once, then one line a minute with a count.
type failureLog struct {
	mu    sync.Mutex
	kinds map[string]*failures
}

// failures are those of one kind.
type failures struct {
	logged time.Time
	count  int   // since then
	last   error // of them
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
	f.count, f.last = f.count+1, err
	f.log(now, log, target)
}

// flush logs what was counted, where its time has come, and forgets kinds that no longer occur.
func (l *failureLog) flush(now time.Time, log *slog.Logger, target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind, f := range l.kinds {
		if f.count == 0 && now.Sub(f.logged) >= failureInterval {
			delete(l.kinds, kind)
		} else if f.count > 0 {
			f.log(now, log, target)
		}
	}
}

func (f *failures) log(now time.Time, log *slog.Logger, target string) {
	if now.Sub(f.logged) < failureInterval {
		return
	}
	log.Warn("forwarding failed", slog.String("target", target), slog.Int("times", f.count), slog.String("error", f.last.Error()))
	f.logged, f.count = now, 0
}
