package access

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// Watch checks the file of a list at every interval and calls apply with the new list after a change,
// until ctx is done. It calls both functions on its own goroutine.
//
// A change counts once two successive checks find the same file, so that Watch does not load a file
// that is being written or replaced by an editor. A missing file is an empty list.
//
// If the file cannot be loaded or has an invalid line, Watch calls failed, once per change and per
// error, and not apply: the last list stays in use as a whole. An interval of 0 or less means one
// second.
func Watch(ctx context.Context, l *List, every time.Duration, apply func(*List), failed func(error)) {
	if every <= 0 {
		every = time.Second
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()

	w := watcher{path: l.path, apply: apply, failed: failed, seen: l.state, loaded: l.state}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.check()
		}
	}
}

type watcher struct {
	path   string
	apply  func(*List)
	failed func(error)

	seen    fs.FileInfo // at the last check; nil if there was no file
	loaded  fs.FileInfo // at the last load
	retry   bool        // the last load failed for a reason outside the file
	lastErr string      // reported last
}

func (w *watcher) check() {
	now := stat(w.path)
	settled := sameFile(now, w.seen)
	w.seen = now
	if settled && (w.retry || !sameFile(now, w.loaded)) {
		w.load()
	}
}

func (w *watcher) load() {
	changed := !sameFile(w.seen, w.loaded)
	w.loaded = w.seen
	l, err := Load(w.path)
	if err == nil {
		err = l.Err()
	}
	if err == nil {
		w.retry, w.lastErr = false, ""
		w.apply(l)
		return
	}
	var invalid *InvalidError
	w.retry = !errors.As(err, &invalid)
	if changed || err.Error() != w.lastErr {
		w.lastErr = err.Error()
		w.failed(err)
	}
}

// stat returns the state of a file, nil if there is none.
func stat(path string) fs.FileInfo {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return info
}

// sameFile reports whether two states are of one unchanged file.
func sameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && a.Mode() == b.Mode()
}
