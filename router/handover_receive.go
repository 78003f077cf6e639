package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"lewes/router/handover"
	"lewes/state/snapshot"
	"lewes/transport"
	"lewes/transport/udp"
)

// ErrOther means that the predecessor's identity, addresses, port or shards differ from this
// gateway's configuration.
var ErrOther = errors.New("an upgrade keeps identity, addresses, port and shards, and the configuration changes them; restart the gateway for that")

// takeoverHello is a predecessor's Hello message with its sockets.
type takeoverHello struct {
	*handover.HelloMessage
	steer      udp.Steer
	udp        []udp.InheritedGroup
	tcp        []*net.TCPListener
	extraFiles map[string]*os.File
}

// inheritor is an Egress that takes over another process's sockets.
type inheritor interface {
	Inherit(*os.File) (transport.Conn, error)
}

// TakeOver creates a gateway from the state that a predecessor at the other end of c hands over
// (HandOver), and serves. The caller owns the extra files. The predecessor closes c at the end. If it
// fails, the predecessor is informed and continues.
func TakeOver(ctx context.Context, config Config, c *handover.Conn) (*Gateway, map[string]*os.File, error) {
	var from *takeoverHello
	g, err := newGateway(config)
	if err == nil {
		from, err = g.readHello(c)
	}
	if err == nil {
		err = g.takeOver(ctx, from, c)
	}
	if err != nil {
		from.close()
		if !errors.Is(err, io.EOF) {
			_ = c.Send(handover.Refused, []byte(err.Error())) // fails if it has exited
		}
		return nil, nil, fmt.Errorf("takeover: %w", err)
	}
	return g, from.extraFiles, nil
}

// close closes the received files.
func (h *takeoverHello) close() {
	if h == nil {
		return
	}
	for _, group := range h.udp {
		for _, file := range group.Files {
			_ = file.Close() // those in use are closed already
		}
	}
	for _, file := range h.extraFiles {
		_ = file.Close()
	}
	for _, listener := range h.tcp {
		_ = listener.Close()
	}
}

// takeOver runs the handover after Hello.
func (g *Gateway) takeOver(ctx context.Context, from *takeoverHello, c *handover.Conn) (err error) {
	own, stop := context.WithCancel(context.Background())
	g.stop = stop
	if err := g.open(ctx, from); err != nil {
		stop()
		return err
	}
	sockets := &inheritedSockets{byCookie: make(map[uint64]inheritedSocket)}
	defer func() {
		sockets.close()
		if err != nil {
			g.Close()
		}
	}()
	if err := c.Send(handover.Ready, nil); err != nil {
		return err
	}
	synced := func() error { return c.Send(handover.Ready, nil) }
	if err := g.load(c.Receive, synced, sockets); err != nil {
		return err
	}
	if err := c.Send(handover.Loaded, nil); err != nil {
		return err
	}
	if err := expect(c, handover.Commit); err != nil {
		return err
	}
	g.listenTCP(own, from.tcp)
	from.tcp = nil
	g.serve(own)
	for _, s := range g.shards {
		s.Do(func(_ time.Time, st *shardState) {
			st.resumeReturn()
			st.resumeTasks()
		})
	}
	if err := c.Send(handover.Serving, nil); err != nil {
		g.log.Warn("the predecessor exited before the end of the handover", zap.Error(err))
	}
	g.ReapplyAccess()
	g.ReapplyDirectory()
	g.ReapplyPolicy()
	return nil
}

// readHello receives the predecessor's Hello and its listening sockets.
func (g *Gateway) readHello(c *handover.Conn) (*takeoverHello, error) {
	f, err := c.Receive()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Kind != handover.Hello {
		return nil, fmt.Errorf("%w: %v instead of %v", handover.ErrFrame, f.Kind, handover.Hello)
	}
	m, err := handover.ParseHello(f.Payload)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for len(files) < m.Files() {
		f, err := c.Receive()
		if err == nil && f.Kind != handover.Sockets {
			err = fmt.Errorf("%w: %v instead of %v", handover.ErrFrame, f.Kind, handover.Sockets)
		}
		if err != nil {
			f.Close()
			for _, file := range files {
				_ = file.Close()
			}
			return nil, err
		}
		files = append(files, f.Files...)
	}
	h := &takeoverHello{HelloMessage: m, steer: udp.Steer{Secret: m.SteerSecret, Shards: m.Shards}, extraFiles: make(map[string]*os.File)}
	if err := h.assign(files); err != nil {
		return h, err
	}
	return h, h.check(g)
}

// assign assigns the received files.
func (h *takeoverHello) assign(files []*os.File) (err error) {
	take := func(n int) (taken []*os.File) {
		taken, files = files[:n], files[n:]
		return taken
	}
	for _, g := range h.Groups {
		h.udp = append(h.udp, udp.InheritedGroup{Addr: g.Addr, Steered: g.Steered, Files: take(g.Sockets)})
	}
	for _, file := range take(h.TCPListeners) {
		listener, failed := net.FileListener(file)
		_ = file.Close()
		if tcp, ok := listener.(*net.TCPListener); ok {
			h.tcp = append(h.tcp, tcp)
		} else {
			err = errors.Join(err, failed, errors.New("an inherited socket is not a TCP listener"))
		}
	}
	for i, file := range take(len(h.ExtraNames)) {
		h.extraFiles[h.ExtraNames[i]] = file
	}
	for _, surplus := range files {
		_ = surplus.Close()
	}
	return err
}

// check compares the predecessor with this gateway's configuration.
func (h *takeoverHello) check(g *Gateway) error {
	c := &g.config
	differs := ""
	switch {
	case h.Identity != g.Identity():
		differs = "identity"
	case h.Shards != c.Shards:
		differs = fmt.Sprintf("%d shards, not %d", c.Shards, h.Shards)
	case h.Port != c.Listen.Port || !slices.Equal(h.Addrs, c.Listen.Addrs):
		differs = "addresses or port"
	default:
		return nil
	}
	return fmt.Errorf("%w (%s)", ErrOther, differs)
}

// load reads frames up to End, the shards in parallel. It calls synced where the predecessor waits
// until the sockets are taken over.
func (g *Gateway) load(receive func() (handover.Frame, error), synced func() error, sockets *inheritedSockets) error {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // no collection while the heap grows and nothing is served
	loaders := make([]*loader, len(g.shards))
	for i, s := range g.shards {
		loaders[i] = newLoader(s, sockets)
	}
	var failed error
	for failed == nil {
		var f handover.Frame
		if f, failed = receive(); failed != nil || f.Kind == handover.End {
			break
		}
		if f.Kind == handover.Sockets && len(f.Files) == 0 {
			failed = synced()
			continue
		}
		failed = g.loadFrame(&f, sockets, loaders)
	}
	errs := []error{failed}
	for _, l := range loaders {
		errs = append(errs, l.end())
	}
	return errors.Join(errs...)
}

func (g *Gateway) loadFrame(f *handover.Frame, sockets *inheritedSockets, loaders []*loader) error {
	switch f.Kind {
	case handover.Sockets:
		defer f.Close()
		return g.inheritSockets(f, sockets)
	case handover.Keys:
		defer f.Close()
		r := snapshot.NewReader(f.Payload, g.config.Clock())
		err := g.kems.Read(r)
		lead := r.Duration()
		g.wall.correction.Store(int64(max(0, lead)))
		draining := false
		snapshot.Decode(r).Bool(&draining)
		g.draining.Store(draining)
		for _, s := range g.shards { // they do not serve yet
			s.mu.Lock()
			s.st.closing = draining
			s.mu.Unlock()
		}
		return errors.Join(err, r.End())
	case handover.Ports:
		defer f.Close()
		if g.ports == nil {
			return nil
		}
		return g.ports.Read(f.Payload)
	case handover.Accounts:
		defer f.Close()
		if g.meter == nil {
			return nil
		}
		return g.meter.Read(g.config.Clock(), f.Payload)
	case handover.Shard, handover.Sessions:
		r := snapshot.NewReader(f.Payload, g.config.Clock())
		shard := int(r.Uint16())
		if r.Err() != nil || shard >= len(loaders) {
			f.Close()
			return fmt.Errorf("%w: %v of shard %d of %d", handover.ErrFrame, f.Kind, shard, len(loaders))
		}
		loaders[shard].work <- loadItem{*f, r}
		return nil
	}
	f.Close()
	return fmt.Errorf("%w: %v", handover.ErrFrame, f.Kind)
}

// inheritSockets turns files into the sockets of a shard's flows. Their owners follow with the
// sessions; until then the return loop has a placeholder.
func (g *Gateway) inheritSockets(f *handover.Frame, sockets *inheritedSockets) error {
	r := snapshot.NewReader(f.Payload, time.Time{})
	shard := int(r.Uint16())
	if r.End() != nil || shard >= len(g.shards) {
		return fmt.Errorf("%w: sockets of shard %d of %d", handover.ErrFrame, shard, len(g.shards))
	}
	egress, ok := g.config.Egress.(inheritor)
	if !ok {
		return errors.New("this gateway's egress cannot take over sockets")
	}
	loop := g.shards[shard].returns
	for _, file := range f.Files {
		conn, err := egress.Inherit(file)
		if err != nil {
			return err
		}
		s := inheritedSocket{conn, new(socketOwner)}
		if u, ok := conn.(*udp.Conn); ok && loop != nil {
			_ = loop.poller.Adopt(u, s.owner) // otherwise it gets a goroutine
		}
		if err := sockets.add(s); err != nil {
			return err
		}
	}
	return nil
}

// socketOwner stands for the returnPath of a socket until that is known. Nothing is read before.
type socketOwner struct{ returnPath }

// inheritedSocket is a socket of a predecessor.
type inheritedSocket struct {
	conn  transport.Conn
	owner *socketOwner
}

// inheritedSockets are the sockets that no flow or upstream has taken yet, by cookie.
type inheritedSockets struct {
	mu       sync.Mutex
	byCookie map[uint64]inheritedSocket
}

// take assigns a socket to its returnPath. It returns nil if there is no such socket.
func (h *inheritedSockets) take(cookie uint64, owner returnPath) transport.Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, ok := h.byCookie[cookie]
	if !ok {
		return nil
	}
	delete(h.byCookie, cookie)
	s.owner.returnPath = owner
	return s.conn
}

// add adds a socket, or closes it after an error.
func (h *inheritedSockets) add(s inheritedSocket) error {
	cookie, err := uint64(0), error(errors.ErrUnsupported)
	if c, ok := s.conn.(interface{ Cookie() (uint64, error) }); ok {
		cookie, err = c.Cookie()
	}
	if err != nil {
		_ = s.conn.Close()
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byCookie[cookie] = s
	return nil
}

// close closes the sockets that were not taken.
func (h *inheritedSockets) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.byCookie {
		_ = s.conn.Close()
	}
	clear(h.byCookie)
}

// loader loads the frames of one shard.
type loader struct {
	work  chan loadItem
	ended sync.WaitGroup
	err   error
}

// loadItem is a frame and its unread rest.
type loadItem struct {
	frame handover.Frame
	rest  *snapshot.Reader
}

// loadAhead is the number of frames that may wait for a loader.
const loadAhead = 16

func newLoader(s *Shard, sockets *inheritedSockets) *loader {
	l := &loader{work: make(chan loadItem, loadAhead)}
	l.ended.Go(func() {
		for item := range l.work {
			if l.err == nil {
				l.err = s.load(&item, sockets)
			}
			item.frame.Close()
		}
	})
	return l
}

func (l *loader) end() error {
	close(l.work)
	l.ended.Wait()
	return l.err
}

// load loads one frame. The shard does not serve yet.
func (s *Shard) load(item *loadItem, sockets *inheritedSockets) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if item.frame.Kind == handover.Shard {
		return s.st.readShard(item.rest, sockets)
	}
	return s.st.readSessions(item.rest, sockets)
}
