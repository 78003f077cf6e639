package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"lewes/router/handover"
	"lewes/state/snapshot"
	"lewes/transport/udp"
)

// listenersShard stands for no shard: the sockets that the gateway listens on.
const listenersShard = 1<<16 - 1

// ErrStale says that what was stored is too old to go on with.
var ErrStale = errors.New("router: what the last process left is too old")

// Store leaves everything for a process that is to come: it writes the gateway's state
// to w, which nobody else may read, and calls keep with the sockets' descriptors, up to
// udp.MaxDescriptors at once, which are good until keep returns. Clients are not told,
// and what comes meanwhile waits in the sockets. After success the gateway does nothing
// any more; after an error it goes on.
func (g *Gateway) Store(w io.Writer, keep func(fds []int) error) (err error) {
	g.pause()
	defer func() {
		if err == nil {
			g.surrender()
			return
		}
		for _, s := range g.shards {
			s.turnThaw()
		}
		g.resume()
	}()
	stamp := snapshot.NewWriter(nil, time.Time{})
	stamp.Uint64(uint64(time.Now().UnixNano()))
	hello := g.hello(nil)
	defer hello.Wipe()
	if err := errors.Join(handover.Write(w, handover.Ready, stamp.Bytes()), handover.Write(w, handover.Hello, hello.Bytes())); err != nil {
		return err
	}
	names := make(cookies)
	if err := g.storeListeners(w, names, keep); err != nil {
		return err
	}
	for i, s := range g.shards {
		if err := storeSockets(w, names, i, s.turnSockets(), keep); err != nil {
			return err
		}
	}
	send := func(kind handover.Kind, payload []byte) error { return handover.Write(w, kind, payload) }
	if err := g.write(g.config.Clock(), names, oneByOne(send)); err != nil {
		return err
	}
	return handover.Write(w, handover.End, nil)
}

// oneByOne lets several goroutines write to one file.
func oneByOne(send frames) frames {
	turn := make(chan struct{}, 1)
	return func(kind handover.Kind, payload []byte) error {
		turn <- struct{}{}
		defer func() { <-turn }()
		return send(kind, payload)
	}
}

// storeListeners writes the names of the sockets that the gateway listens on, and has
// them kept.
func (g *Gateway) storeListeners(w io.Writer, names cookies, keep func([]int) error) error {
	all := snapshot.NewWriter(nil, time.Time{})
	all.Uint16(listenersShard)
	for _, conn := range g.listening() {
		cookie, err := conn.Cookie()
		if err != nil {
			return err
		}
		all.Uint64(cookie)
	}
	for _, listener := range g.tcpListeners() {
		cookie, err := udp.CookieOf(listener)
		if err != nil {
			return err
		}
		all.Uint64(cookie)
		if err := keepFile(listener, keep); err != nil {
			return err
		}
	}
	for batch := range slices.Chunk(g.listening(), udp.MaxDescriptors) {
		if err := udp.Descriptors(batch, keep); err != nil {
			return err
		}
	}
	return handover.Write(w, handover.Sockets, all.Bytes())
}

func keepFile(file syscall.Conn, keep func([]int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var kept error
	err = raw.Control(func(fd uintptr) { kept = keep([]int{int(fd)}) })
	return errors.Join(err, kept)
}

// storeSockets writes the names of a shard's flows' sockets, and has them kept.
func storeSockets(w io.Writer, names cookies, shard int, conns []*udp.Conn, keep func([]int) error) error {
	for batch := range slices.Chunk(conns, udp.MaxDescriptors) {
		all := snapshot.NewWriter(nil, time.Time{})
		all.Uint16(uint16(shard))
		for _, conn := range batch {
			cookie, err := conn.Cookie()
			if err != nil {
				return err
			}
			names[conn] = cookie
			all.Uint64(cookie)
		}
		if err := errors.Join(udp.Descriptors(batch, keep), handover.Write(w, handover.Sockets, all.Bytes())); err != nil {
			return err
		}
	}
	return nil
}

// Stored is what Store has written: an *os.File at its beginning.
type Stored interface {
	io.Reader
	Truncate(size int64) error
}

// Restore makes a gateway of what another process has left by Store, at most maxAge
// ago, and serves. Before it seals anything it empties what was stored, and fails if it
// cannot: were that read once more, after a crash, its keys would seal with the same
// nonces again. It owns the files, which may be in any order, and closes those that
// it has no use for, whatever comes of it.
func Restore(ctx context.Context, config Config, r Stored, files []*os.File, maxAge time.Duration) (*Gateway, error) {
	kept := named(files)
	defer kept.close()
	g, err := newGateway(config)
	if err != nil {
		return nil, err
	}
	g.stop = func() {}
	if err := g.restore(ctx, r, kept, maxAge); err != nil {
		return nil, fmt.Errorf("going on with what the last process left: %w", err)
	}
	return g, nil
}

func (g *Gateway) restore(ctx context.Context, r Stored, kept keptFiles, maxAge time.Duration) (err error) {
	from, err := g.readStored(r, kept, maxAge)
	if err == nil {
		err = from.check(g)
	}
	if err != nil {
		from.close()
		return err
	}
	own, stop := context.WithCancel(context.Background())
	g.stop = stop
	if err := g.open(ctx, from); err != nil {
		stop()
		from.close()
		return err
	}
	loaded := &heirlooms{byCookie: make(map[uint64]heirloom)}
	err = g.load(func() (handover.Frame, error) { return readKept(r, kept) }, func() error { return nil }, loaded)
	loaded.close()
	if err == nil {
		err = r.Truncate(0)
	}
	if err != nil {
		g.Close()
		from.close()
		return err
	}
	g.begin(own, from.tcp)
	return nil
}

// readStored reads what the last process was, and finds the sockets that it listened
// on.
func (g *Gateway) readStored(r io.Reader, kept keptFiles, maxAge time.Duration) (*bequest, error) {
	stamp, err := expectStored(r, handover.Ready)
	if err != nil {
		return nil, err
	}
	at := snapshot.NewReader(stamp.Payload, time.Time{})
	if age := time.Since(time.Unix(0, int64(at.Uint64()))); at.Err() != nil || age < 0 || age > maxAge {
		return nil, fmt.Errorf("%w: %v", ErrStale, age)
	}
	hello, err := expectStored(r, handover.Hello)
	if err != nil {
		return nil, err
	}
	defer hello.Close()
	b, counts, names, err := parseHello(hello.Payload, g.config.Clock())
	if err != nil {
		return nil, err
	}
	total := b.listeners + len(names)
	for _, n := range counts {
		total += n
	}
	listeners, err := readKept(r, kept)
	if err != nil {
		return nil, err
	}
	if len(listeners.Files) != total {
		listeners.Close()
		return nil, fmt.Errorf("%d of %d sockets were kept", len(listeners.Files), total)
	}
	return b, b.share(listeners.Files, counts, names)
}

func expectStored(r io.Reader, kind handover.Kind) (handover.Frame, error) {
	f, err := handover.Read(r)
	if err == nil && f.Kind != kind {
		err = fmt.Errorf("%w: %v instead of %v", handover.ErrFrame, f.Kind, kind)
	}
	return f, err
}

// readKept reads a frame. Where it names sockets, those that were kept go with it,
// and the names do not.
func readKept(r io.Reader, kept keptFiles) (handover.Frame, error) {
	f, err := handover.Read(r)
	if err != nil || f.Kind != handover.Sockets {
		return f, err
	}
	names := snapshot.NewReader(f.Payload, time.Time{})
	names.Uint16()
	for names.Len() > 0 && names.Err() == nil {
		if file := kept.take(names.Uint64()); file != nil {
			f.Files = append(f.Files, file)
		}
	}
	if names.Err() != nil {
		f.Close()
		return handover.Frame{}, names.Err()
	}
	f.Payload = f.Payload[:2]
	return f, nil
}

// keptFiles are sockets by their names.
type keptFiles map[uint64]*os.File

func named(files []*os.File) keptFiles {
	kept := make(keptFiles, len(files))
	for _, file := range files {
		cookie, err := udp.CookieOf(file)
		if err != nil || kept[cookie] != nil {
			_ = file.Close() // no socket, or one that came twice
			continue
		}
		kept[cookie] = file
	}
	return kept
}

func (k keptFiles) take(cookie uint64) *os.File {
	file := k[cookie]
	delete(k, cookie)
	return file
}

func (k keptFiles) close() {
	for _, file := range k {
		_ = file.Close()
	}
	clear(k)
}
