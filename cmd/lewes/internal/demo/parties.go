package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/router"
	"lewes/router/account"
	"lewes/router/egress"
	"lewes/router/policy"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/client"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

// demo holds all parties.
type demo struct {
	target      *target
	entry, exit *gateway
	session     *client.Session
	key         *identity.PrivateKey // the client's
	sender      witness              // at the client's socket
	marker      [16]byte             // start of every payload
}

// gateway is a gateway with a witness at its egress sockets.
type gateway struct {
	*router.Gateway
	uri uri.Gateway
	key *identity.PrivateKey
	out witness

	client identity.PublicKey // the only one admitted

	mu   sync.Mutex
	seen []identity.PublicKey // authenticated clients
}

// target is an echo server.
type target struct {
	conn *net.UDPConn
	addr netip.AddrPort
	done sync.WaitGroup

	mu   sync.Mutex
	from []netip.AddrPort
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func start() (_ *demo, err error) {
	d := new(demo)
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if _, err := rand.Read(d.marker[:]); err != nil {
		return nil, err
	}
	if d.key, err = identity.Generate(rand.Reader); err != nil {
		return nil, err
	}
	if d.target, err = startTarget(); err != nil {
		return nil, err
	}
	// The encoded target and the payload marker must not be readable before the exit.
	at := wire.AddrTarget(d.target.addr)
	secrets := [][]byte{at.Append(nil), d.marker[:]}
	d.sender.secrets = secrets

	// The exit may send to the target and nothing else on this machine.
	only := policy.Rule{Prefix: netip.PrefixFrom(loopback, loopback.BitLen()), First: d.target.addr.Port(), Last: d.target.addr.Port()}
	if d.exit, err = startGateway(d.atExit, policy.Config{Allow: []policy.Rule{only}}, nil, nil); err != nil {
		return nil, fmt.Errorf("the exit: %w", err)
	}
	// The entry may send to no target; the exit is in its directory.
	if d.entry, err = startGateway(d.atEntry, policy.Config{}, []uri.Gateway{d.exit.uri}, secrets); err != nil {
		return nil, fmt.Errorf("the entry: %w", err)
	}
	return d, nil
}

// atExit returns the client's identity at the exit.
func (d *demo) atExit(identity.PublicKey) identity.PublicKey { return d.key.Public() }

// atEntry returns the client's identity at an entry.
func (d *demo) atEntry(entry identity.PublicKey) identity.PublicKey {
	key := d.key.ForEntry(entry)
	defer key.Wipe()
	return key.Public()
}

func startTarget() (*target, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		return nil, fmt.Errorf("the target: %w", err)
	}
	t := &target{conn: conn, addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	t.done.Go(t.serve)
	return t, nil
}

func (t *target) serve() {
	buffer := make([]byte, wire.MaxUDPPacket)
	for {
		n, from, err := t.conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue
		}
		addOnce(&t.mu, &t.from, from)
		_, _ = t.conn.WriteToUDPAddrPort(buffer[:n], from) // the client detects a loss
	}
}

// startGateway starts a gateway that admits one client, by the identity that admitted returns for the
// gateway's own.
func startGateway(admitted func(gateway identity.PublicKey) identity.PublicKey, rules policy.Config, directory []uri.Gateway, secrets [][]byte) (*gateway, error) {
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		return nil, err
	}
	g := &gateway{key: key, client: admitted(key.Public())}
	g.out.secrets = secrets
	config := router.Config{
		Identity: key,
		Listen:   udp.Config{Addrs: []netip.AddrPort{netip.AddrPortFrom(loopback, 0)}},
		Shards:   1,
		KEMs:     []kem.ID{kem.MLKEM768},
		Access: func(id identity.PublicKey) account.Standing {
			addOnce(&g.mu, &g.seen, id)
			return account.Standing{Admitted: id == g.client, Listed: id == g.client}
		},
		Policy: policy.New(rules),
		Egress: &watchedEgress{&egress.UDP{}, &g.out},
	}
	if directory != nil {
		config.Directory = router.NewDirectory(directory, net.DefaultResolver)
		if err := config.Directory.Refresh(context.Background()); err != nil { // all are addresses: no lookup
			return nil, err
		}
	}
	if g.Gateway, err = router.Start(config); err != nil {
		return nil, err
	}
	at := g.Addrs()[0]
	g.uri = uri.Gateway{Identity: key.Public(), Host: at.Addr().String(), Port: at.Port()}
	return g, nil
}

// received returns the number of datagrams received on the listening socket.
func (g *gateway) received() uint64 {
	clients, _ := g.Traffic()
	return clients.Received.Packets
}

func (g *gateway) close() {
	if g == nil {
		return
	}
	if g.Gateway != nil {
		g.Shutdown(context.Background())
	}
	g.key.Wipe()
}

// connect establishes the client's session with the exit, through the entry.
func (d *demo) connect(ctx context.Context, r *Report) error {
	begun := time.Now()
	session, err := client.Dial(ctx, client.Config{
		Gateway:     d.exit.uri,
		Via:         []uri.Gateway{d.entry.uri},
		Identity:    d.key,
		Keys:        new(client.KeyCache),
		NoReconnect: true,
		Underlay: func(_ context.Context, to netip.AddrPort) (transport.Conn, error) {
			conn, err := udp.Dial(to, udp.Options{Pooled: true})
			if err != nil {
				return nil, err
			}
			return d.sender.watch(conn, to), nil
		},
	})
	if err != nil {
		return err
	}
	d.session = session
	info := session.Info()
	r.KEM, r.AEAD = info.KEM.String(), info.AEAD
	r.Hands.Total = milliseconds(time.Since(begun))
	r.Hands.Exit = milliseconds(info.Handshake.Established.Sub(info.Handshake.Started))
	return nil
}

// close stops all parties and wipes their keys.
func (d *demo) close() {
	if d.session != nil {
		_ = d.session.Close()
	}
	d.entry.close()
	d.exit.close()
	if d.target != nil {
		_ = d.target.conn.Close()
		d.target.done.Wait()
	}
	if d.key != nil {
		d.key.Wipe()
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
