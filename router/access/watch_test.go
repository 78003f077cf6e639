package access

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// watched is a file under Watch, which checks it every second.
type watched struct {
	t    *testing.T
	path string
	stop func()

	mu     sync.Mutex
	lists  []*List // the first is the one to watch
	errors []error
}

func watch(t *testing.T, path string) *watched {
	t.Helper()
	l, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{t: t, path: path, lists: []*List{l}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Watch(ctx, l, time.Second, w.apply, w.failed)
	}()
	w.stop = func() { cancel(); <-done }
	synctest.Wait()
	return w
}

func (w *watched) apply(l *List) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lists = append(w.lists, l)
}

func (w *watched) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors = append(w.errors, err)
}

// write replaces the file and gives it a unique time.
func (w *watched) write(text string, at int) {
	w.t.Helper()
	if err := os.WriteFile(w.path+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	when := time.Unix(1_700_000_000+int64(at), 0)
	if err := os.Chtimes(w.path+".new", when, when); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.path+".new", w.path); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) checks(n int) {
	time.Sleep(time.Duration(n) * time.Second)
	synctest.Wait()
}

// want checks how often each function has been called.
func (w *watched) want(lists, failures int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lists) != lists || len(w.errors) != failures {
		w.t.Fatalf("%d lists and %d errors %v, want %d and %d", len(w.lists), len(w.errors), w.errors, lists, failures)
	}
}

// last returns the list applied last, failure the error reported last.
func (w *watched) last() *List {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lists[len(w.lists)-1]
}

func (w *watched) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.errors[len(w.errors)-1]
}

func TestWatch(t *testing.T) {
	a, b := client(1), client(2)
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, filepath.Join(t.TempDir(), "clients"))
		defer w.stop()
		w.want(1, 0)
		if w.last().state != nil {
			t.Fatal("a file that is not there is not missing")
		}
		w.checks(5)
		w.want(1, 0)

		w.write(a.String()+"\n", 1)
		w.checks(1)
		w.want(1, 0) // not before it is stable
		w.checks(1)
		w.want(2, 0)
		if l := w.last(); l.state == nil || !contains(l, a) || contains(l, b) {
			t.Fatalf("the list is %v", l.Entries())
		}
		w.checks(10)
		w.want(2, 0)

		// The same size.
		w.write(b.String()+"\n", 2)
		w.checks(2)
		w.want(3, 0)
		if l := w.last(); contains(l, a) || !contains(l, b) {
			t.Fatalf("the list is %v", l.Entries())
		}

		// An invalid line is reported once, and the list is unchanged as a whole.
		w.write(b.String()+"\nanna\n", 3)
		w.checks(10)
		w.want(3, 1)
		var bad *LineError
		if !errors.As(w.failure(), &bad) || bad.Line != 2 || bad.Path != w.path {
			t.Fatalf("error %v", w.failure())
		}
		// Written again, still invalid, it is reported again.
		w.write(b.String()+"\nanna\n", 4)
		w.checks(10)
		w.want(3, 2)

		w.write(b.String()+"\n"+a.String()+" anna\n", 5)
		w.checks(2)
		w.want(4, 2)
		if l := w.last(); !contains(l, a) || !contains(l, b) {
			t.Fatalf("the list is %v", l.Entries())
		}

		if err := os.Remove(w.path); err != nil {
			t.Fatal(err)
		}
		w.checks(2)
		w.want(5, 2)
		if l := w.last(); l.state != nil || contains(l, a) {
			t.Fatalf("the list is %v", l.Entries())
		}
	})
}

func TestWatchWaitsUntilFileIsStable(t *testing.T) {
	a, b := client(1), client(2)
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, file(t, a.String()+"\n"))
		defer w.stop()
		w.want(1, 0)

		// Missing for a moment, as with some editors.
		if err := os.Remove(w.path); err != nil {
			t.Fatal(err)
		}
		w.checks(1)
		w.write(a.String()+"\n"+b.String()+"\n", 1)
		w.checks(1)
		w.want(1, 0)
		w.checks(1)
		w.want(2, 0)
		if l := w.last(); !contains(l, a) || !contains(l, b) {
			t.Fatalf("the list is %v", l.Entries())
		}

		// Written in pieces.
		for i := range 10 {
			w.write(b.String()[:20+i], 2+i)
			w.checks(1)
		}
		w.write(b.String(), 20)
		w.checks(1)
		w.want(2, 0)
		w.checks(1)
		w.want(3, 0)
		if l := w.last(); contains(l, a) || !contains(l, b) {
			t.Fatalf("the list is %v", l.Entries())
		}
	})
}

func TestWatchReportsEachFailureOnce(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("file modes say nothing about access on Windows")
	}
	synctest.Test(t, func(t *testing.T) {
		path := file(t, client(1).String()+"\n")
		w := watch(t, path)
		defer w.stop()
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		w.checks(10)
		w.want(1, 1) // once, not each second
		if !errors.Is(w.failure(), ErrPermissions) {
			t.Fatalf("error %v, want ErrPermissions", w.failure())
		}
		// Another error is reported too.
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		w.checks(10)
		w.want(1, 2)
		if !errors.Is(w.failure(), ErrNotFile) || !strings.Contains(w.failure().Error(), path) {
			t.Fatalf("error %v, want ErrNotFile", w.failure())
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		w.write(client(1).String()+"\n", 1)
		w.checks(2)
		w.want(2, 2)
		// A change of the mode is a change.
		if err := os.Chmod(path, 0o620); err != nil {
			t.Fatal(err)
		}
		w.checks(2)
		w.want(2, 3)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		w.checks(2)
		w.want(3, 3)
	})
}

// A failure with another cause is retried without a change of the file.
func TestWatchRetriesWithoutChange(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		// A parent of the path is first a file and later a directory, so that the file
		// is missing both times.
		between := filepath.Join(dir, "between")
		if err := os.Mkdir(between, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(between, "clients")
		if err := os.WriteFile(path, []byte(client(1).String()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		w := watch(t, path)
		defer w.stop()
		if err := os.RemoveAll(between); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(between, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		w.checks(5)
		w.want(1, 1)
		if err := os.Remove(between); err != nil {
			t.Fatal(err)
		}
		w.checks(1)
		w.want(2, 1)
		if w.last().state != nil {
			t.Fatal("not missing")
		}
	})
}

func TestWatchLoadsEdits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, filepath.Join(t.TempDir(), "clients"))
		defer w.stop()
		for n := range byte(3) {
			if err := Add(w.path, Entry{Identity: client(n), Name: "c" + string('0'+rune(n))}); err != nil {
				t.Fatal(err)
			}
			w.checks(2)
			w.want(2+int(n), 0)
			if !contains(w.last(), client(n)) {
				t.Fatalf("the list is %v", w.last().Entries())
			}
		}
		if _, err := Remove(w.path, "c1"); err != nil {
			t.Fatal(err)
		}
		w.checks(2)
		w.want(5, 0)
		if contains(w.last(), client(1)) || !contains(w.last(), client(2)) {
			t.Fatalf("the list is %v", w.last().Entries())
		}
	})
}

func TestWatchStopsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := Load(file(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		calls := 0
		Watch(ctx, l, 0, func(*List) { calls++ }, func(err error) { t.Error(err) })
		if took := time.Since(start); took != 3*time.Second || calls != 0 {
			t.Errorf("ended after %v and %d calls", took, calls)
		}
	})
}
