package access

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// Watch loads the file and calls apply with the list, then checks the file at every
// interval and calls apply again after a change, until ctx is done. It calls both
// functions on its own goroutine.
//
// A change counts once two successive checks find the same file, so that Watch does not load a file
// that is being written or replaced by an editor. A missing file is an empty list.
//
// If the file cannot be loaded, Watch calls failed, once per change and per error, and not apply:
// the last list stays in use. An interval of 0 or less means one second.
func Watch(ctx context.Context, path string, every time.Duration, apply func(*List), failed func(error)) {
	if every <= 0 {
		every = time.Second
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()

	w := watcher{path: path, apply: apply, failed: failed}
	w.seen = stat(path)
	w.load()
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
		w.retry, w.lastErr = false, ""
		w.apply(l)
		return
	}
	var line *LineError
	w.retry = !errors.As(err, &line)
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
