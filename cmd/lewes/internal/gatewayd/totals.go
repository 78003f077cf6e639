package gatewayd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/router"
)

// Total is the traffic of a listed client in all its sessions.
type Total struct {
	Since time.Time `json:"since"` // start of the first session
	Up    Traffic   `json:"up"`    // from the client
	Down  Traffic   `json:"down"`  // to the client
}

func (t Total) add(o Total) Total {
	if t.Since.IsZero() || !o.Since.IsZero() && o.Since.Before(t.Since) {
		t.Since = o.Since
	}
	t.Up.Datagrams += o.Up.Datagrams
	t.Up.Bytes += o.Up.Bytes
	t.Down.Datagrams += o.Down.Datagrams
	t.Down.Bytes += o.Down.Bytes
	return t
}

func sessionTotal(i *router.SessionInfo) Total {
	return Total{i.Started.UTC(), Traffic{i.Up.Packets, i.Up.Bytes}, Traffic{i.Down.Packets, i.Down.Bytes}}
}

// totals keeps the traffic of listed clients across restarts, in a file that is written at intervals and at
// the end. The clients in the list bound it. It is safe for concurrent use; a nil *totals keeps nothing.
//
// A file has the traffic of ended sessions and of live ones apart: a process that starts adds both up, and one
// that takes over goes on with the live ones.
type totals struct {
	path   string
	every  time.Duration
	listed func(identity.PublicKey) bool
	log    *zap.Logger

	broken atomic.Bool // the file cannot be read or written

	writing sync.Mutex // held during a walk, and for writing
	closed  bool       // guarded by writing

	mu      sync.Mutex
	ended   map[identity.PublicKey]Total // of sessions that have ended
	walking map[[16]byte]bool            // sessions that have ended since the walk's start; nil: no walk
}

func newTotals(path string, every time.Duration, listed func(identity.PublicKey) bool, log *zap.Logger) *totals {
	return &totals{path: path, every: every, listed: listed, log: log, ended: make(map[identity.PublicKey]Total)}
}

// noteEnd counts a session that has ended. It is called under a shard's lock.
func (t *totals) noteEnd(i *router.SessionInfo) {
	if !t.listed(i.Identity) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.walking != nil {
		t.walking[i.Handle] = true
	}
	t.ended[i.Identity] = t.ended[i.Identity].add(sessionTotal(i))
}

// load adds the totals in the file, without those of live sessions if this process has taken them over. A
// file that cannot be read is not written either.
func (t *totals) load(tookOver bool) {
	if t == nil {
		return
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	file, err := readTotals(t.path)
	if err != nil {
		t.broken.Store(true)
		t.closed = true
		t.log.Error("cannot read the totals of clients; counting without the file, which stays as it is", zap.Error(err))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for client, both := range file {
		total := both.ended
		if !tookOver {
			total = total.add(both.live)
		}
		if t.ended[client] = t.ended[client].add(total); t.ended[client].Since.IsZero() {
			delete(t.ended, client) // its only session is a live one
		}
	}
}

// run writes the file at intervals until ctx is done.
func (t *totals) run(ctx context.Context, g sessionSource) {
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.write(ctx, g)
		}
	}
}

// close writes the file for the last time: without live sessions, which have ended or belong to a successor.
func (t *totals) close() {
	if t != nil {
		t.write(context.Background(), nil)
	}
}

// write writes the file. g nil means that there are no live sessions any more.
func (t *totals) write(ctx context.Context, g sessionSource) {
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.closed {
		return
	}
	t.closed = g == nil
	all, err := t.walk(ctx, g, func(time.Duration) {})
	if err != nil {
		return // ctx is done
	}
	err = writeTotals(t.path, all)
	if broken := err != nil; t.broken.Swap(broken) != broken && broken {
		t.log.Warn("cannot write the totals of clients", zap.Error(err))
	}
}

// all returns the totals of the clients that have any. pause is told the time that each piece of work took.
func (t *totals) all(ctx context.Context, g sessionSource, pause func(time.Duration)) (map[identity.PublicKey]Total, error) {
	if t == nil {
		return nil, nil
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	both, err := t.walk(ctx, g, pause)
	sum := make(map[identity.PublicKey]Total, len(both))
	for client, b := range both {
		sum[client] = b.ended.add(b.live)
	}
	return sum, err
}

// bothTotals are those of a client's ended sessions and of its live ones.
type bothTotals struct{ ended, live Total }

// walk adds up the sessions. A session that ends meanwhile counts once. t.writing is held.
func (t *totals) walk(ctx context.Context, g sessionSource, pause func(time.Duration)) (map[identity.PublicKey]bothTotals, error) {
	type session struct {
		client identity.PublicKey
		total  Total
	}
	live := make(map[[16]byte]session)
	if g != nil {
		t.mu.Lock()
		t.walking = make(map[[16]byte]bool)
		t.mu.Unlock()
		began := time.Now()
		err := g.Sessions(ctx, func(some []router.SessionInfo) error {
			for i := range some {
				if s := &some[i]; t.listed(s.Identity) {
					live[s.Handle] = session{s.Identity, sessionTotal(s)}
				}
			}
			pause(time.Since(began))
			began = time.Now()
			return nil
		})
		if err != nil {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.walking = nil
			return nil, err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	ended := t.walking
	t.walking = nil
	maps.DeleteFunc(t.ended, func(client identity.PublicKey, _ Total) bool { return !t.listed(client) })
	all := make(map[identity.PublicKey]bothTotals, len(t.ended))
	for client, total := range t.ended {
		all[client] = bothTotals{ended: total}
	}
	for handle, s := range live {
		if !ended[handle] {
			b := all[s.client]
			b.live = b.live.add(s.total)
			all[s.client] = b
		}
	}
	return all, nil
}

// totalsHead is the first line of the file. Each other line has a client's identity, then the start, and the
// datagrams and bytes up and down, of its ended sessions and of its live ones.
const totalsHead = "lewes totals 1\n"

var errTotals = errors.New("not a file of totals of this version; mend it, or move it away to count from zero")

// maxTotals bounds a file in bytes.
const maxTotals = 512 << 20

// ReadTotals returns the totals of clients as of the last write; none if there is no file.
func ReadTotals(path string) (map[identity.PublicKey]Total, error) {
	file, err := readTotals(path)
	sum := make(map[identity.PublicKey]Total, len(file))
	for client, b := range file {
		sum[client] = b.ended.add(b.live)
	}
	return sum, err
}

func readTotals(path string) (map[identity.PublicKey]bothTotals, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var text []byte
	if err == nil && info.Size() > maxTotals {
		return nil, fmt.Errorf("%s: %w", path, errTotals)
	}
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(text, []byte(totalsHead))
	all := make(map[identity.PublicKey]bothTotals, bytes.Count(rest, []byte("\n")))
	for line := range strings.Lines(string(rest)) {
		fields := strings.Fields(line)
		if ok = ok && len(fields) == 11 && strings.HasSuffix(line, "\n"); !ok {
			break
		}
		client, err := identity.ParsePublicKey(fields[0])
		var b bothTotals
		ok = err == nil && parseTotal(&b.ended, fields[1:6]) && parseTotal(&b.live, fields[6:])
		all[client] = b
	}
	if !ok {
		return nil, fmt.Errorf("%s: line %d: %w", path, len(all)+2, errTotals)
	}
	return all, nil
}

func parseTotal(t *Total, fields []string) bool {
	if fields[0] != "-" {
		var err error
		if t.Since, err = time.Parse(time.RFC3339, fields[0]); err != nil {
			return false
		}
	}
	for i, n := range []*uint64{&t.Up.Datagrams, &t.Up.Bytes, &t.Down.Datagrams, &t.Down.Bytes} {
		var err error
		if *n, err = strconv.ParseUint(fields[1+i], 10, 64); err != nil {
			return false
		}
	}
	return true
}

func appendTotal(b []byte, t *Total) []byte {
	if t.Since.IsZero() {
		b = append(b, " -"...)
	} else {
		b = t.Since.UTC().AppendFormat(append(b, ' '), time.RFC3339)
	}
	for _, n := range []uint64{t.Up.Datagrams, t.Up.Bytes, t.Down.Datagrams, t.Down.Bytes} {
		b = strconv.AppendUint(append(b, ' '), n, 10)
	}
	return b
}

// writeTotals replaces the file, so that after a crash there is the old one or the new one.
func writeTotals(path string, all map[identity.PublicKey]bothTotals) error {
	next := path + ".tmp" // one file, however often a process is killed while it writes
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(next) // fails after success
	w := bufio.NewWriter(f)
	_, _ = w.WriteString(totalsHead) // Flush returns the error
	var line []byte
	for _, client := range slices.SortedFunc(maps.Keys(all), func(a, b identity.PublicKey) int { return bytes.Compare(a[:], b[:]) }) {
		b := all[client]
		line = append(line[:0], client.String()...)
		line = append(appendTotal(appendTotal(line, &b.ended), &b.live), '\n')
		_, _ = w.Write(line)
	}
	if err := errors.Join(w.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(next, path)
}
