//go:build unix

package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/kkt"
	"lewes/crypto/seal"
	"lewes/router/access"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport/client"
	"lewes/transport/uri"
)

// What happens when something runs out: memory, descriptors, ports, the disk. Each
// is answered, counted, and over once there is enough again.

// figures reads a gateway's metrics: series with their labels, as they are written.
func (g *runningGateway) figures() map[string]float64 {
	g.t.Helper()
	at := regexp.MustCompile(`"url": "(http://[^"]+/metrics)"`).FindStringSubmatch(g.stderr())
	if at == nil {
		g.t.Fatal("the gateway gives no metrics")
	}
	answer, err := http.Get(at[1])
	if err != nil {
		g.t.Fatal(err)
	}
	defer answer.Body.Close()
	all := map[string]float64{}
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		name, value, found := strings.Cut(lines.Text(), " ")
		for strings.Count(name, `"`)%2 == 1 { // a space within a label
			var more string
			more, value, found = strings.Cut(value, " ")
			name += " " + more
		}
		if v, err := strconv.ParseFloat(value, 64); found && err == nil {
			all[name] = v
		}
	}
	return all
}

// until waits for what figures say.
func (g *runningGateway) until(what string, done func(map[string]float64) bool) map[string]float64 {
	g.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		f := g.figures()
		if done(f) {
			return f
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%s: not within %v: %v", what, patience, f)
		}
	}
}

const withMetrics = "[metrics]\nlisten = \"127.0.0.1:0\"\n"

// greeter makes hellos, each with a KKT request, of indexes one after the other.
type greeter struct {
	gateway identity.PublicKey
	mac     *cookie.MAC1Key
	index   uint32
}

func newGreeter(gateway identity.PublicKey) *greeter {
	return &greeter{gateway: gateway, mac: cookie.NewMAC1Key(gateway)}
}

func (g *greeter) next(now time.Time) (hello, request []byte) {
	g.index++
	commitment := kdf.Hash(strconv.AppendUint(nil, uint64(g.index), 10))
	h := wire.ClientHello{
		Attempt:   g.index,
		Salt:      wire.NewSalt(uint64(now.Unix()), &commitment),
		AEADOffer: uint8(seal.ChaCha20Poly1305),
		KEM:       uint8(kem.MLKEM768),
	}
	hello = h.Append(wire.Begin(nil, 0, wire.LevelClear, 0, wire.TypeClientHello))
	hello = wire.Finish(wire.Pad(hello, 0, wire.MinHelloDatagram))
	g.mac.Sum(hello)
	of := h.Hello()
	sum := kdf.Hash(of[:])
	request = kkt.AppendRequest(wire.Begin(nil, g.index, wire.LevelClear, 0, wire.TypeKKTRequest), kem.MLKEM768, kkt.SessionID(sum[:16]))
	request = wire.Finish(wire.Pad(request, 0, wire.MinHelloDatagram))
	g.mac.Sum(request)
	return hello, request
}

// parts returns packets with different parts of one message_id for the last hello.
func (g *greeter) parts() (packets [][]byte) {
	for n := range 4 {
		data := bytes.Repeat([]byte{byte(n), byte(g.index)}, 500)
		part := wire.Part{Index: uint8(n % 2), Count: 2, MessageID: [4]byte{9}, Data: data}
		p := wire.Finish(part.Append(wire.Begin(nil, g.index, wire.LevelClear, 0, wire.TypeHandshake)))
		g.mac.Sum(p)
		packets = append(packets, p)
	}
	return packets
}

// gatewayWithLimit starts a gateway that lists one client and hardly limits the rate of handshakes, and
// connects that client through it to an echo server.
func gatewayWithLimit(t *testing.T, limit string) (g *runningGateway, key *identity.PrivateKey, at uri.Gateway, echoes func()) {
	t.Helper()
	_, key = newClient(t)
	target := echo(t)
	dir := t.TempDir()
	if err := access.Add(filepath.Join(dir, "clients"), access.Entry{Identity: key.Public()}); err != nil {
		t.Fatal(err)
	}
	g = launchGatewayIn(t, dir, allowEcho+withMetrics+`[handshake]
rate = 1000000
burst = 1000000
tries_per_second = 1000000
max_records = 1000000
`, "GOMEMLIMIT="+limit)
	at, err := uri.Parse(g.uri)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dial(t, g.uri, key).DialContext(t.Context(), "udp", target)
	if err != nil {
		t.Fatal(err)
	}
	return g, key, at, func() {
		t.Helper()
		buffer := make([]byte, 16)
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		for string(buffer) != "still here" {
			if _, err := conn.Write([]byte("still here")); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(buffer[:cap(buffer)])
			if err != nil {
				t.Fatalf("the session does not carry on: %v", err)
			}
			buffer = buffer[:n]
		}
	}
}

// TestHandshakesKeepToTheirMemory floods a gateway with handshakes that nobody goes on with, with parts
// that join to nothing. However many they are, they take no more than their share of the memory limit,
// memory does not become short, and clients connect.
//
// Shows R12.21.
func TestHandshakesKeepToTheirMemory(t *testing.T) {
	t.Parallel()
	const limit = 64 << 20
	g, key, at, echoes := gatewayWithLimit(t, "64MiB")
	flood, err := net.Dial("udp", at.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	makes := newGreeter(at.Identity)
	const unproved, cookies = `lewes_handshake_memory_bytes{source="unproved"}`, `lewes_handshakes_total{step="cookie"}`
	g.until("the limit is read", func(f map[string]float64) bool { return f["lewes_memory_limit_bytes"] == limit })
	// Cookies are required from half of the memory on; the parts fill the rest.
	flooded := g.until("there is a flood", func(f map[string]float64) bool {
		for range 500 {
			hello, request := makes.next(time.Now())
			_, _ = flood.Write(hello) // what is lost is made up for by what comes
			_, _ = flood.Write(request)
			for _, p := range makes.parts() {
				_, _ = flood.Write(p)
			}
		}
		return f[cookies] > 5000
	})
	if n := flooded[unproved]; n > limit/40 || n < limit/160 {
		t.Errorf("%.0f bytes of handshakes are kept", n)
	}
	if flooded[`lewes_handshakes_total{step="failed_join"}`] == 0 {
		t.Error("the joins that failed are not counted")
	}
	echoes()
	again, err := client.Dial(t.Context(), client.Config{Gateway: at, Identity: key, Keys: new(client.KeyCache), NoReconnect: true})
	if err != nil {
		t.Fatalf("during the flood: %v", err)
	}
	_ = again.Close()
	after := g.figures()
	if after[`lewes_hellos_refused_total{reason="memory"}`] != 0 || after["lewes_memory_used_bytes"] > 0.8*limit || after[unproved] > limit/40 {
		t.Errorf("afterwards: %v", after)
	}
}

// TestMemoryRunsOut establishes sessions until memory is short. They go on, new ones are refused, and
// taken again once the others have ended.
//
// Shows R12.6.
func TestMemoryRunsOut(t *testing.T) {
	t.Parallel()
	g, key, at, echoes := gatewayWithLimit(t, "32MiB")
	before := g.until("the limit is read", func(f map[string]float64) bool { return f["lewes_memory_used_bytes"] > 0 })
	if before["lewes_memory_limit_bytes"] != 32<<20 {
		t.Errorf("the limit is %v", before["lewes_memory_limit_bytes"])
	}
	many, err := net.Dial("udp", at.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer many.Close()
	var sessions []*state.Session
	for deadline := time.Now().Add(patience); g.figures()[`lewes_hellos_refused_total{reason="memory"}`] == 0; {
		for range 50 {
			if s := establish(t, many, at.Identity, key); s != nil {
				sessions = append(sessions, s)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions were not enough: %v", len(sessions), g.figures())
		}
	}
	g.awaitLog("memory is short")
	t.Logf("%d sessions; %.0f MiB before", len(sessions), before["lewes_memory_used_bytes"]/(1<<20))
	echoes()

	for _, s := range sessions {
		var out state.Output
		s.Close(wire.CloseDone, "", &out)
		for _, p := range out.Packets {
			_, _ = many.Write(p.Data)
		}
	}
	g.awaitLog("memory is no longer short")
	again, err := client.Dial(t.Context(), client.Config{Gateway: at, Identity: key, Keys: new(client.KeyCache), NoReconnect: true})
	if err != nil {
		t.Fatalf("after the shortage: %v", err)
	}
	_ = again.Close()
	if used := g.figures()["lewes_memory_used_bytes"]; used > 0.8*32*(1<<20) || strings.Count(g.stderr(), "memory is short") != 1 {
		t.Errorf("afterwards %.0f bytes are used", used)
	}
}

// establish makes a session over a socket that serves one handshake at a time, or returns nil if the
// gateway refuses or does not answer in time.
func establish(t *testing.T, conn net.Conn, gateway identity.PublicKey, key *identity.PrivateKey) *state.Session {
	t.Helper()
	var out state.Output
	c, err := state.NewClient(time.Now(), state.ClientConfig{
		Gateway: gateway, Identity: key, KEM: kem.MLKEM768, Suites: seal.Offer(), Rand: rand.Reader,
		Path: path.Path{Peer: conn.RemoteAddr().(*net.UDPAddr).AddrPort()},
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 2048)
	for {
		for _, p := range out.Packets {
			_, _ = conn.Write(p.Data)
		}
		out.Reset()
		if c.Session() != nil {
			return c.Session()
		}
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := conn.Read(buffer)
		if err != nil {
			return nil
		}
		_ = c.Handle(time.Now(), buffer[:n], &out)
	}
}
