package wallet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lewes/crypto/identity"
)

func testKey(n byte) identity.PublicKey {
	return identity.FromSeed(&[identity.SeedSize]byte{n}).Public()
}

// testNow is the clock of wallets in tests.
var testNow = time.Date(2026, 3, 1, 23, 59, 59, 0, time.UTC)

var testGateway = testKey(1)

// testRelay is a registration of an account that is not the wallet's.
var testRelay = Registration{Gateway: testGateway, Account: testKey(9), Mode: "relay"}

// newWallet returns a wallet with tickets for testGateway, whose tokens are 1, 2, and so on.
func newWallet(t *testing.T, tickets int) *Wallet {
	t.Helper()
	w, err := Open(filepath.Join(t.TempDir(), "state", "wallet"))
	if err != nil {
		t.Fatal(err)
	}
	w.now = func() time.Time { return testNow }
	change(t, w, func(c *content) {
		for i := range tickets {
			c.Tickets = append(c.Tickets, newTicket(i+1))
		}
	})
	return w
}

func newTicket(n int) *ticket {
	k := key{ID: hex32{7}, Epoch: 3, Bytes: 1000, Seconds: 3600, Until: testNow.Add(time.Hour).Unix()}
	return &ticket{key: k, Gateway: hex32(testGateway), Issuer: "https://issuer.example", Token: fmt.Append(nil, n)}
}

func change(t *testing.T, w *Wallet, f func(*content)) {
	t.Helper()
	if err := w.update(t.Context(), func(c *content) error { f(c); return nil }); err != nil {
		t.Fatal(err)
	}
}

// read returns the content of the wallet's file.
func read(t *testing.T, w *Wallet) *content {
	t.Helper()
	c, err := w.read()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFileMode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the mode does not show access there")
	}
	w := newWallet(t, 1)
	for _, path := range []string{w.Path(), w.Path() + ".lock"} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
	if err := os.Chmod(w.Path(), 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := Open(w.Path())
	if !errors.Is(err, identity.ErrPermissions) || !strings.Contains(err.Error(), "chmod 600 "+w.Path()) {
		t.Errorf("a wallet that others can read: %v", err)
	}
}

// A damaged wallet is neither used nor overwritten.
func TestDamagedWallet(t *testing.T) {
	w := newWallet(t, 2)
	good, err := os.ReadFile(w.Path())
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		file []byte
		want error
	}{
		"empty":     {nil, ErrDamaged},
		"cut":       {good[:len(good)-1], ErrDamaged},
		"longer":    {append(bytes.Clone(good), 'x'), ErrDamaged},
		"a bit":     {flipped, ErrDamaged},
		"no wallet": {[]byte("hello\n"), ErrDamaged},
		"newer":     {[]byte("lewes wallet 2 abc\n"), ErrNewer},
	} {
		if err := os.WriteFile(w.Path(), c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(w.Path())
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), w.Path()) {
			t.Errorf("%s: opened with %v", name, err)
		}
		if _, err := w.Register(t.Context(), testRelay, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: registered with %v", name, err)
		}
		if _, err := w.Account(t.Context(), testGateway); !errors.Is(err, c.want) {
			t.Errorf("%s: account with %v", name, err)
		}
		if now, err := os.ReadFile(w.Path()); err != nil || !bytes.Equal(now, c.file) {
			t.Errorf("%s: the file was changed (%v)", name, err)
		}
	}
}

// badFile fails one of its steps.
type badFile struct {
	file
	step string
}

func (f badFile) Write(p []byte) (int, error) {
	if f.step == "write" {
		n, _ := f.file.Write(p[:len(p)/2])
		return n, syscall.ENOSPC
	}
	return f.file.Write(p)
}

func (f badFile) Sync() error {
	if f.step == "sync" {
		return syscall.EIO
	}
	return f.file.Sync()
}

func (f badFile) Close() error {
	err := f.file.Close()
	if f.step == "close" {
		return syscall.ENOSPC
	}
	return err
}

// When a step of a write fails, on a full or read-only disk, the file is as before or the change is complete, and
// no token leaves the wallet.
func TestDiskFails(t *testing.T) {
	for step, want := range map[string]error{
		"lock": syscall.EROFS, "create": syscall.EROFS, "write": syscall.ENOSPC, "sync": syscall.EIO,
		"close": syscall.ENOSPC, "rename": syscall.EROFS, "syncDir": syscall.EIO,
	} {
		w := newWallet(t, 1)
		good := w.disk
		switch create := good.create; step {
		case "lock":
			w.disk.lock = func(string) (func(), error) { return nil, want }
		case "create":
			w.disk.create = func(string) (file, error) { return nil, want }
		case "rename":
			w.disk.rename = func(string, string) error { return want }
		case "syncDir":
			w.disk.syncDir = func(string) error { return want }
		default:
			w.disk.create = func(path string) (file, error) {
				f, err := create(path)
				return badFile{f, step}, err
			}
		}
		asked := 0
		_, err := w.Register(t.Context(), testRelay, func(_ context.Context, token []byte) (Answer, error) {
			if token != nil {
				t.Errorf("%s: a ticket was spent before that was stored", step)
			}
			asked++
			return Answer{Verdict: TicketNeeded}, nil
		})
		if !errors.Is(err, want) || asked != 1 {
			t.Errorf("%s: asked %d times, %v", step, asked, err)
		}
		for _, words := range []string{w.Path(), "nothing was spent"} {
			if err != nil && !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %q does not contain %q", step, err, words)
			}
		}
		if c := read(t, w); len(c.Tickets) != 1 || (c.Tickets[0].Spend != nil) != (step == "syncDir") {
			t.Errorf("%s: the file has %d tickets, bound: %v", step, len(c.Tickets), c.Tickets[0].Spend)
		}
		w.disk = good
		change(t, w, func(*content) {})
		if _, err := os.Stat(w.Path() + ".new"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a temporary file remains: %v", step, err)
		}
	}
}

// The remains of a crash in the middle of a write are removed by the next one.
func TestCrashDuringWrite(t *testing.T) {
	w := newWallet(t, 1)
	if err := os.WriteFile(w.Path()+".new", []byte("half a wal"), 0o644); err != nil {
		t.Fatal(err)
	}
	change(t, w, func(c *content) { c.Tickets = append(c.Tickets, newTicket(2)) })
	if n := len(read(t, w).Tickets); n != 2 {
		t.Errorf("%d tickets", n)
	}
}

// A second process waits for the first one's change, and gives up with a sentence.
func TestLocked(t *testing.T) {
	w := newWallet(t, 1)
	unlock, err := lockFile(w.Path() + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	w.disk.lock = func(path string) (func(), error) {
		unlock, err := lockFile(path)
		if errors.Is(err, errLocked) {
			cancel(ErrInUse) // instead of lockWait
		}
		return unlock, err
	}
	if err := w.update(ctx, func(*content) error { t.Error("changed"); return nil }); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), w.Path()) {
		t.Errorf("a locked wallet: %v", err)
	}
	unlock()
	change(t, w, func(*content) {})
}

// Changes of several processes, each with a Wallet of its own, do not get lost.
func TestConcurrentChanges(t *testing.T) {
	w := newWallet(t, 0)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			other, err := Open(w.Path())
			if err != nil {
				t.Error(err)
				return
			}
			if err := other.update(t.Context(), func(c *content) error {
				c.Tickets = append(c.Tickets, newTicket(i))
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := len(read(t, w).Tickets); n != 8 {
		t.Errorf("%d tickets of 8 processes", n)
	}
}

// A wallet behind a link is replaced where it is.
func TestLinkedWallet(t *testing.T) {
	w := newWallet(t, 1)
	link := filepath.Join(t.TempDir(), "wallet")
	if err := os.Symlink(w.Path(), link); err != nil {
		t.Skip(err)
	}
	linked, err := Open(link)
	if err != nil {
		t.Fatal(err)
	}
	change(t, linked, func(c *content) { c.Tickets = append(c.Tickets, newTicket(2)) })
	if n := len(read(t, w).Tickets); n != 2 {
		t.Errorf("the file has %d tickets", n)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	x := ticket{Token: secret("hidden")}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(format, x); strings.Contains(s, "hidden") || strings.Contains(s, fmt.Sprint([]byte("hidden"))) {
			t.Errorf("%s prints %s", format, s)
		}
	}
}

func FuzzDecode(f *testing.F) {
	c := &content{
		Tickets:  []*ticket{newTicket(1), newTicket(2)},
		Fetches:  []*fetch{{key: newTicket(1).key, Gateway: hex32(testGateway), Issuer: "https://issuer.example#x", Voucher: make(secret, 16), Seeds: []secret{make(secret, 32)}}},
		Accounts: []*account{{Gateway: hex32(testGateway), Seed: make(secret, 32), Remaining: 5}},
		Keys:     []seenKey{{newTicket(1).key, hex32(testKey(2)), 3600}},
	}
	c.Tickets[1].Spend = &binding{hex32(testGateway), hex32{3}, "relay", hex32{1}}
	file, err := c.encode()
	if err != nil {
		f.Fatal(err)
	}
	_, body, _ := bytes.Cut(file, []byte("\n"))
	f.Add(file, false)
	f.Add(body, true)
	f.Add([]byte("{}"), true)
	f.Add([]byte("lewes wallet 2 \n{}"), false)
	f.Fuzz(func(t *testing.T, file []byte, sum bool) {
		if sum { // get behind the checksum
			file = withHeader(file)
		}
		c, err := decode(file)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatalf("error %v", err)
			}
			return
		}
		again, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		c2, err := decode(again)
		if err != nil {
			t.Fatalf("%s cannot be read again: %v", again, err)
		}
		third, err := c2.encode()
		if err != nil || !bytes.Equal(third, again) {
			t.Fatalf("%s is written again as %s (%v)", again, third, err)
		}
		_, _ = c.choose(&testRelay, nil, nil, testNow)
		c.account(hex32(testGateway), testNow)
		c.prune(testNow)
		c.wipe()
	})
}
