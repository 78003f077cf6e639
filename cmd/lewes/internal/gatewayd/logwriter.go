package gatewayd

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	maxPendingLog = 256 << 10 // bytes of lines that wait to be written
	logFlushWait  = time.Second
)

// logWriter writes lines in a goroutine: the caller, which may be a shard with its lock, waits neither for a
// disk nor for the reader of a pipe. Lines are lost if they wait in too great a number or cannot be written;
// once a write succeeds again, their number is reported.
type logWriter struct {
	w       io.Writer
	ended   chan struct{}
	changed *sync.Cond // of the fields below

	mu      sync.Mutex
	pending []byte
	lost    uint64 // lines
	err     error  // of the last failed write
	closed  bool
}

func newLogWriter(w io.Writer) *logWriter {
	l := &logWriter{w: w, ended: make(chan struct{})}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// start starts the goroutine. It calls report, which may write, with the number of lost lines and the last
// error.
func (l *logWriter) start(report func(lost uint64, err error)) { go l.run(report) }

// Write queues a line. It never fails and never waits for the writer.
func (l *logWriter) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.pending)+len(line) > maxPendingLog {
		l.lost++
	} else {
		l.pending = append(l.pending, line...)
		l.changed.Signal()
	}
	return len(line), nil
}

func (l *logWriter) run(report func(lost uint64, err error)) {
	defer close(l.ended)
	var lines []byte
	for {
		l.mu.Lock()
		for len(l.pending) == 0 && !l.closed {
			l.changed.Wait()
		}
		if len(l.pending) == 0 {
			l.mu.Unlock()
			return
		}
		lines, l.pending = l.pending, lines[:0]
		l.mu.Unlock()
		_, err := l.w.Write(lines)
		l.mu.Lock()
		lost, last := l.lost, l.err
		if err != nil {
			l.lost, l.err = l.lost+uint64(bytes.Count(lines, []byte{'\n'})), err
		} else {
			l.lost, l.err = 0, nil
		}
		l.mu.Unlock()
		if err == nil && lost > 0 {
			report(lost, last)
		}
	}
}

// losing reports whether lines were lost since the last successful write.
func (l *logWriter) losing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost > 0
}

// Close writes what is pending, as far as the writer takes it within a second.
func (l *logWriter) Close() {
	l.mu.Lock()
	l.closed = true
	l.changed.Signal()
	l.mu.Unlock()
	select {
	case <-l.ended:
	case <-time.After(logFlushWait):
	}
}
