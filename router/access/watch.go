package access

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// Watch reads the file at once and gives the list to apply, then looks at it each
// interval, and again gives the list to apply when the file has changed, until ctx
// is done. Both functions are called by the goroutine that calls Watch.
//
// A change counts when two looks in a row find the file the same, so that one that
// is just being written, or is gone for the moment in which an editor replaces it,
// is not taken for what its owner wants. A file that stays away is an empty list.
//
// What cannot be read is told to failed, once for each change and each other
// reason; apply is not called, and the list that was applied last goes on to hold.
// An interval of 0 or less means a second.
func Watch(ctx context.Context, path string, every time.Duration, apply func(*List), failed func(error)) {
	if every <= 0 {
		every = time.Second
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()

	w := watcher{path: path, apply: apply, failed: failed}
	w.seen = stampOf(path)
	w.load()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.look()
		}
	}
}

type watcher struct {
	path   string
	apply  func(*List)
	failed func(error)

	seen   stamp // at the last look
	loaded stamp // when the file was last read
	retry  bool  // reading failed for a reason that is not in the file
	told   string
}

func (w *watcher) look() {
	now := stampOf(w.path)
	settled := now.same(w.seen)
	w.seen = now
	if settled && (w.retry || !now.same(w.loaded)) {
		w.load()
	}
}

func (w *watcher) load() {
	changed := !w.seen.same(w.loaded)
	w.loaded = w.seen
	l, err := Load(w.path)
	if err == nil {
		w.retry, w.told = false, ""
		w.apply(l)
		return
	}
	var line *LineError
	w.retry = !errors.As(err, &line)
	if changed || err.Error() != w.told {
		w.told = err.Error()
		w.failed(err)
	}
}

// stamp is what shows from outside that a file has changed. The zero stamp is that
// of no file.
type stamp struct {
	info fs.FileInfo
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info}
}

// same tells whether two stamps are of one unchanged file.
func (s stamp) same(t stamp) bool {
	if s.info == nil || t.info == nil {
		return s.info == nil && t.info == nil
	}
	return os.SameFile(s.info, t.info) && s.info.Size() == t.info.Size() &&
		s.info.ModTime().Equal(t.info.ModTime()) && s.info.Mode() == t.info.Mode()
}
