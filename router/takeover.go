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

// Bounds of what a predecessor says.
const (
	maxGroups     = 1 << 10
	maxShards     = 1 << 12
	maxExtraName  = 64
	leastHeadline = 6
)

// ErrOther says that a predecessor cannot be succeeded by a gateway that is
// configured like this one: it has to be restarted.
var ErrOther = errors.New("an upgrade keeps identity, addresses, port and shards as they are, and the configuration changes them; restart the gateway for that")

// heir is an Egress that goes on with another process's sockets.
type heir interface {
	Inherit(*os.File) (transport.Conn, error)
}

// TakeOver makes a gateway of everything that a predecessor at the other end of c
// hands over (HandOver), and serves. The files that came along are the caller's.
// The predecessor closes c when it is done. An error says why nothing was taken over,
// and so was the predecessor told, which goes on.
func TakeOver(ctx context.Context, config Config, c *handover.Conn) (*Gateway, map[string]*os.File, error) {
	var from *bequest
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
			_ = c.Send(handover.Refused, []byte(err.Error())) // it may have gone
		}
		return nil, nil, fmt.Errorf("taking over: %w", err)
	}
	return g, from.extras, nil
}

// close closes what came.
func (b *bequest) close() {
	if b == nil {
		return
	}
	for _, group := range b.udp {
		for _, file := range group.Files {
			_ = file.Close() // what was taken is closed already
		}
	}
	for _, file := range b.extras {
		_ = file.Close()
	}
	for _, listener := range b.tcp {
		_ = listener.Close()
	}
}

// takeOver does the rest of the conversation.
func (g *Gateway) takeOver(ctx context.Context, from *bequest, c *handover.Conn) (err error) {
	own, stop := context.WithCancel(context.Background())
	g.stop = stop
	if err := g.open(ctx, from); err != nil {
		stop()
		return err
	}
	loaded := &heirlooms{byCookie: make(map[uint64]heirloom)}
	defer func() {
		loaded.close()
		if err != nil {
			g.Close()
		}
	}()
	if err := c.Send(handover.Ready, nil); err != nil {
		return err
	}
	settled := func() error { return c.Send(handover.Ready, nil) }
	if err := g.load(c.Receive, settled, loaded); err != nil {
		return err
	}
	if err := c.Send(handover.Loaded, nil); err != nil {
		return err
	}
	if err := expect(c, handover.Commit); err != nil {
		return err
	}
	g.begin(own, from.tcp)
	from.tcp = nil
	if err := c.Send(handover.Serving, nil); err != nil {
		g.log.Warn("the predecessor ended before it heard that this gateway serves", zap.Error(err))
	}
	return nil
}

// begin serves what was loaded.
func (g *Gateway) begin(ctx context.Context, tcp []*net.TCPListener) {
	g.listenTCP(ctx, tcp)
	g.serve(ctx)
	for _, s := range g.shards {
		s.Turn(func(now time.Time) {
			s.turnResume()
			s.turnBegin(now)
		})
	}
}

// readHello receives what the predecessor is.
func (g *Gateway) readHello(c *handover.Conn) (*bequest, error) {
	f, err := c.Receive()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Kind != handover.Hello {
		return nil, fmt.Errorf("%w: %v instead of %v", handover.ErrFrame, f.Kind, handover.Hello)
	}
	b, counts, names, err := parseHello(f.Payload, g.config.Clock())
	if err != nil {
		return nil, err
	}
	var files []*os.File
	total := len(names) + b.listeners
	for _, n := range counts {
		total += n
	}
	for len(files) < total {
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
	if err := b.share(files, counts, names); err != nil {
		return b, err
	}
	return b, b.check(g)
}

// share gives the files to whom they belong.
func (b *bequest) share(files []*os.File, counts []int, names []string) (err error) {
	for i, n := range counts {
		b.udp[i].Files, files = files[:n], files[n:]
	}
	for _, file := range files[:b.listeners] {
		listener, failed := net.FileListener(file)
		_ = file.Close()
		if tcp, ok := listener.(*net.TCPListener); ok {
			b.tcp = append(b.tcp, tcp)
		} else {
			err = errors.Join(err, failed, errors.New("a socket that should accept TCP does not"))
		}
	}
	files = files[b.listeners:]
	b.extras = make(map[string]*os.File)
	for i, name := range names {
		b.extras[name] = files[i]
	}
	for _, surplus := range files[len(names):] {
		_ = surplus.Close()
	}
	return err
}

func parseHello(payload []byte, now time.Time) (b *bequest, counts []int, names []string, err error) {
	r := snapshot.NewReader(payload, now)
	if form := r.Uint16(); r.Err() == nil && form != handOverForm {
		return nil, nil, nil, fmt.Errorf("the predecessor hands over in form %d, and this program knows %d; restart the gateway instead", form, handOverForm)
	}
	b = new(bequest)
	r.Fixed(b.identity[:])
	b.steer = udp.Steer{Secret: r.Uint32(), Shards: int(r.Uint32())}
	b.port = r.Uint16()
	for range r.Count(maxGroups, leastHeadline/2) {
		b.asked = append(b.asked, r.AddrPort())
	}
	for range r.Count(maxGroups, leastHeadline) {
		b.udp = append(b.udp, udp.InheritedGroup{Addr: r.AddrPort(), Steered: r.Bool()})
		n := int(r.Uint32())
		if n < 1 || n > maxShards {
			r.Fail("%d sockets of one address", n)
		}
		counts = append(counts, n)
	}
	b.listeners = r.Count(maxShards, 0)
	for range r.Count(maxExtras, 4) {
		names = append(names, string(r.Blob(maxExtraName)))
	}
	return b, counts, names, r.End()
}

// check compares the predecessor with how this gateway is configured.
func (b *bequest) check(g *Gateway) error {
	c := &g.config
	differs := ""
	switch {
	case b.identity != g.Identity():
		differs = "identity"
	case b.steer.Shards != c.Shards:
		differs = fmt.Sprintf("%d shards, not %d", c.Shards, b.steer.Shards)
	case b.port != c.Listen.Port || !slices.Equal(b.asked, c.Listen.Addrs):
		differs = "addresses or port"
	default:
		return nil
	}
	return fmt.Errorf("%w (%s)", ErrOther, differs)
}

// load reads frames up to End, shards side by side. It calls settled where the
// predecessor waits for the sockets to be taken up.
func (g *Gateway) load(receive func() (handover.Frame, error), settled func() error, sockets *heirlooms) error {
	// While nothing is served, nothing is collected: a heap that doubles again and
	// again is what the collector would otherwise be busy with.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	loaders := make([]*loader, len(g.shards))
	for i, s := range g.shards {
		loaders[i] = newLoader(s, sockets)
	}
	var failed error
	for failed == nil {
		var f handover.Frame
		if f, failed = receive(); failed != nil {
			break
		}
		if f.Kind == handover.End {
			break
		}
		if f.Kind == handover.Sockets && len(f.Files) == 0 {
			failed = settled()
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

func (g *Gateway) loadFrame(f *handover.Frame, sockets *heirlooms, loaders []*loader) error {
	switch f.Kind {
	case handover.Sockets:
		defer f.Close()
		return g.adopt(f, sockets)
	case handover.Keys:
		defer f.Close()
		r := snapshot.NewReader(f.Payload, g.config.Clock())
		err := g.kems.Read(r)
		lead := r.Duration()
		g.wall.correction.Store(int64(max(0, lead)))
		return errors.Join(err, r.End())
	case handover.Shard, handover.Sessions:
		r := snapshot.NewReader(f.Payload, g.config.Clock())
		shard := int(r.Uint16())
		if r.Err() != nil || shard >= len(loaders) {
			f.Close()
			return fmt.Errorf("%w: %v of shard %d of %d", handover.ErrFrame, f.Kind, shard, len(loaders))
		}
		loaders[shard].work <- loading{*f, r}
		return nil
	}
	f.Close()
	return fmt.Errorf("%w: %v", handover.ErrFrame, f.Kind)
}

// adopt makes Conns of the sockets that a shard's flows had, and gives them to the
// loop that will read them for whoever turns out to be their owner.
func (g *Gateway) adopt(f *handover.Frame, sockets *heirlooms) error {
	r := snapshot.NewReader(f.Payload, time.Time{})
	shard := int(r.Uint16())
	if r.End() != nil || shard >= len(g.shards) {
		return fmt.Errorf("%w: sockets of shard %d of %d", handover.ErrFrame, shard, len(g.shards))
	}
	egress, ok := g.config.Egress.(heir)
	if !ok {
		return errors.New("this gateway's flows cannot go on with another's sockets")
	}
	loop := g.shards[shard].returns
	for _, file := range f.Files {
		conn, err := egress.Inherit(file)
		if err != nil {
			return err
		}
		h := heirloom{conn, new(owner)}
		if u, ok := conn.(*udp.Conn); ok && loop != nil {
			_ = loop.poller.Adopt(u, h.owner) // or else it gets a pump
		}
		if err := sockets.add(h); err != nil {
			return err
		}
	}
	return nil
}

// owner stands for what comes back on a socket while that is not known yet. Nothing is
// read before it is.
type owner struct{ returning }

// loader reads the frames of one shard.
type loader struct {
	work  chan loading
	ended sync.WaitGroup
	err   error
}

// loading is a frame, and what is to be read of it.
type loading struct {
	frame handover.Frame
	rest  *snapshot.Reader
}

// loadAhead is how many frames may wait for a loader.
const loadAhead = 16

func newLoader(s *Shard, sockets *heirlooms) *loader {
	l := &loader{work: make(chan loading, loadAhead)}
	l.ended.Go(func() {
		for next := range l.work {
			if l.err == nil {
				l.err = s.load(&next, sockets)
			}
			next.frame.Close()
		}
	})
	return l
}

func (l *loader) end() error {
	close(l.work)
	l.ended.Wait()
	return l.err
}

// load takes one frame over. The shard is not served yet.
func (s *Shard) load(next *loading, sockets *heirlooms) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next.frame.Kind == handover.Shard {
		return s.turnRead(next.rest, sockets)
	}
	return s.turnReadSessions(next.rest, sockets)
}
