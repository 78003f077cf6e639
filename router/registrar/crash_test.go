package registrar

import (
	"bytes"
	"context"
	"encoding/gob"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/state/ledger"
	"lewes/state/wire"
)

// The tests here kill a process with a real ledger, which is this test binary with crashVariable set, and look at
// what the next one makes of the rest.

// crashVariable has the folder, and the step after which the process ends, or "spend".
const crashVariable = "LEWES_REGISTRAR_CRASH"

var kills = flag.Int("kills", 4, "how often TestKilledDuringSpends kills")

func TestMain(m *testing.M) {
	flag.Parse()
	if dir, until, found := strings.Cut(os.Getenv(crashVariable), " "); found {
		crash(dir, until)
	}
	os.Exit(m.Run())
}

// fileDevice is a device whose peers outlive the process, as those of a kernel do.
type fileDevice struct {
	*fakeDevice
	path string
}

func (d fileDevice) load() {
	d.mu.Lock()
	defer d.mu.Unlock()
	text, err := os.ReadFile(d.path)
	if err != nil {
		return // there is none yet
	}
	var peers []Peer
	if err := gob.NewDecoder(bytes.NewReader(text)).Decode(&peers); err != nil {
		panic(err)
	}
	for _, p := range peers {
		d.peers[p.Key] = p
	}
}

func (d fileDevice) save(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var peers []Peer
	for _, p := range d.peers {
		peers = append(peers, p)
	}
	var text bytes.Buffer
	failed := gob.NewEncoder(&text).Encode(peers)
	if failed == nil {
		failed = os.WriteFile(d.path+".new", text.Bytes(), 0o600)
	}
	if failed == nil {
		failed = os.Rename(d.path+".new", d.path)
	}
	if failed != nil {
		panic(failed)
	}
	return err
}

func (d fileDevice) Set(ctx context.Context, p Peer) error { return d.save(d.fakeDevice.Set(ctx, p)) }

func (d fileDevice) Remove(ctx context.Context, p Peer) error {
	return d.save(d.fakeDevice.Remove(ctx, p))
}

func (d fileDevice) Reconcile(ctx context.Context, peers []Peer) error {
	return d.save(d.fakeDevice.Reconcile(ctx, peers))
}

// start returns a Registrar on the ledger and the device in a folder, as a process has them after its start.
func start(dir string) (r *Registrar, l *ledger.Ledger, d fileDevice) {
	d = fileDevice{newDevice(1 << 16), filepath.Join(dir, "device")}
	d.load()
	r = New(Config{
		Access: Tickets, Modes: []wire.Mode{wire.ModeRelay, wire.ModeDVPN}, Tickets: new(fakeTickets), Device: d, Sealing: new([32]byte),
	})
	l, err := ledger.Open(filepath.Join(dir, "ledger"), ledger.Options{Gateway: identity.PublicKey{9}, Now: time.Now()})
	if err == nil {
		err = r.Recover(context.Background(), l)
	}
	if err != nil {
		panic(err)
	}
	r.SetLedger(l)
	return r, l, d
}

// spend registers a client in a session with a ticket.
func spend(r *Registrar, client identity.PublicKey, exporter byte, mode wire.Mode, number uint64) *wire.RegisterResult {
	m := wire.Register{RequestID: 1, Mode: mode, Timestamp: uint64(time.Now().Unix())}
	pay(1, number)(&m)
	if mode == wire.ModeDVPN {
		m.WGPublicKey = append([]byte{1}, client[1:]...)
		m.WGProof = proofOf([32]byte(m.WGPublicKey), [32]byte{exporter})
	}
	done := make(chan *wire.RegisterResult, 1)
	q := &Request{Client: client, Exporter: [32]byte{exporter}, Message: m.Append(nil)}
	if !r.Submit(q, func(result *wire.RegisterResult, _ Registration) { done <- result }) {
		panic("the queue is full")
	}
	return <-done
}

// crash is the process that is killed.
func crash(dir, until string) {
	reached = func(step int) {
		if fmt.Sprint(step) == until {
			self, _ := os.FindProcess(os.Getpid())
			_ = self.Kill()
			select {}
		}
	}
	r, _, _ := start(dir)
	if until == "spend" {
		spendUntilKilled(r, dir)
	}
	spend(r, identity.PublicKey{1}, 1, wire.ModeDVPN, 7)
	_ = r.end(context.Background(), identity.PublicKey{1}, func(*ledger.Account) bool { return true })
	os.Exit(1) // the step was not reached
}

// process returns the process to be killed.
func process(t *testing.T, dir, until string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashVariable+"="+dir+" "+until)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// killed runs a process until it has killed itself after a step.
func killed(t *testing.T, dir string, step int) {
	t.Helper()
	cmd := process(t, dir, fmt.Sprint(step))
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		t.Fatalf("not killed after step %d: %v", step, cmd.ProcessState)
	}
}

// TestKilledAfterEachStep: whatever step a process is killed after, a repeat in another session has one grant and
// one peer of the ticket, and nobody else can spend it.
//
// Shows R9.17.
func TestKilledAfterEachStep(t *testing.T) {
	for step := 1; step <= 10; step++ {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			t.Parallel()
			dir, client := t.TempDir(), identity.PublicKey{1}
			killed(t, dir, step)
			r, l, d := start(dir)
			defer l.Close()
			defer r.Close()
			account, _, err := l.Account(client)
			if err != nil {
				t.Fatal(err)
			}
			want := 0
			if step >= 8 {
				want = 1
			}
			if len(account.Grants) != want || len(account.Attachments) != want || len(d.peers) != want {
				t.Fatalf("after the start %d grants, %d attachments, %d peers; want %d", len(account.Grants), len(account.Attachments), len(d.peers), want)
			}
			result := spend(r, client, 2, wire.ModeDVPN, 7)
			if result.Code != wire.CodeOK || result.Remaining != 1000 {
				t.Errorf("a repeat: %+v", result)
			}
			other := identity.PublicKey{2}
			if got := spend(r, other, 1, wire.ModeDVPN, 7); got.Code != wire.CodeAlreadySpent {
				t.Errorf("another client: %+v", got)
			}
			account, _, _ = l.Account(client)
			at, _ := account.Attachment(ledger.DVPN)
			p, err := r.sealer.open(client, &at)
			if err != nil || len(account.Grants) != 1 || at.State != ledger.On || len(d.peers) != 1 || d.peers[at.WireGuardKey] != p || p.PSK != d.PSK(p.Key, [32]byte{2}) {
				t.Errorf("%d grants, attachment %+v, peers %+v (%v)", len(account.Grants), at, d.peers, err)
			}
			if len(d.taken) != 1 {
				t.Errorf("%d addresses are taken", len(d.taken))
			}
		})
	}
}

// TestKilledWhileEnding: an attachment whose removal a crash cut off is gone after the next start.
func TestKilledWhileEnding(t *testing.T) {
	for _, step := range []int{12, 13} {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			killed(t, dir, step)
			r, l, d := start(dir)
			defer l.Close()
			defer r.Close()
			account, found, err := l.Account(identity.PublicKey{1})
			if !found || err != nil || len(account.Grants) != 1 || len(account.Attachments) != 0 || len(d.peers) != 0 {
				t.Errorf("%+v, %d peers (%v)", account, len(d.peers), err)
			}
		})
	}
}

const (
	spenders   = 20
	perAccount = 8 // tickets; the last registers a peer
)

// spender returns the account and the mode of a client's ticket.
func spender(client, number uint64) (identity.PublicKey, wire.Mode) {
	mode := wire.ModeRelay
	if number%perAccount == perAccount-1 {
		mode = wire.ModeDVPN
	}
	return identity.PublicKey{1, byte(client), byte(number / perAccount), byte(number / perAccount >> 8)}, mode
}

// answered reads which tickets of each client were answered: those below the result.
func answered(dir string) (next [spenders]uint64) {
	text, _ := os.ReadFile(filepath.Join(dir, "answers"))
	for line := range strings.Lines(string(text)) {
		var client, number uint64
		if _, err := fmt.Sscanf(line, "%d %d\n", &client, &number); err == nil {
			next[client] = number + 1
		}
	}
	return next
}

// spendUntilKilled has each client spend one ticket after the other, from the first that was not answered.
func spendUntilKilled(r *Registrar, dir string) {
	answers, err := os.OpenFile(filepath.Join(dir, "answers"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	for client, number := range answered(dir) {
		go func() {
			for {
				account, mode := spender(uint64(client), number)
				if result := spend(r, account, byte(os.Getpid()), mode, uint64(client)<<32|number); result.Code != wire.CodeOK {
					panic(fmt.Sprintf("client %d, ticket %d: %+v", client, number, result))
				}
				if _, err := fmt.Fprintf(answers, "%d %d\n", client, number); err != nil {
					panic(err)
				}
				number++
			}
		}()
	}
	select {}
}

// TestKilledDuringSpends: no ticket is taken twice or lost, no bandwidth is given twice, and ledger, pool and
// device agree.
func TestKilledDuringSpends(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "answers")
	for range *kills {
		before, _ := os.ReadFile(path)
		cmd := process(t, dir, "spend")
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for enough := false; !enough; {
			select {
			case err := <-ended:
				t.Fatalf("ended by itself: %v", err)
			case <-time.After(2 * time.Millisecond):
				now, _ := os.ReadFile(path)
				enough = bytes.Count(now[len(before):], []byte("\n")) >= 2*spenders
			}
		}
		_ = cmd.Process.Kill()
		<-ended
	}
	r, l, d := start(dir)
	defer l.Close()
	defer r.Close()
	total := uint64(0)
	for client, next := range answered(dir) {
		for first := uint64(0); first <= next; first += perAccount {
			id, _ := spender(uint64(client), first)
			account, _, err := l.Account(id)
			if err != nil {
				t.Fatal(err)
			}
			grants, want := uint64(len(account.Grants)), min(next-first, perAccount)
			if underWay := want < perAccount; grants != want && !(underWay && grants == want+1) {
				t.Errorf("client %d: account with %d grants after %d answers", client, grants, want)
			}
			for _, g := range account.Grants {
				if g.Bytes != 1000 {
					t.Errorf("client %d: a grant of %d bytes", client, g.Bytes)
				}
			}
			total += want
		}
		account, mode := spender(uint64(client), next)
		if got := spend(r, account, 1, mode, uint64(client)<<32|next); got.Code != wire.CodeOK {
			t.Errorf("client %d: the ticket that was not answered: %+v", client, got)
		}
	}
	peers, taken := make(map[[32]byte]Peer), make(map[netip.Addr]identity.PublicKey)
	err := l.Attachments(func(id identity.PublicKey, a ledger.Attachment) error {
		p, err := r.sealer.open(id, &a)
		if _, twice := taken[p.IPv4]; twice || a.State != ledger.On {
			t.Errorf("address %v twice, or state %v", p.IPv4, a.State)
		}
		peers[p.Key], taken[p.IPv4] = p, id
		return err
	})
	if err != nil || !reflect.DeepEqual(peers, d.peers) || !reflect.DeepEqual(taken, d.taken) {
		t.Errorf("%d attachments, %d peers, %d addresses (%v)", len(peers), len(d.peers), len(d.taken), err)
	}
	t.Logf("%d kills, %d tickets answered, %d peers", *kills, total, len(peers))
}
