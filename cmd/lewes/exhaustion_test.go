//go:build unix

package main

import (
	"bufio"
	"fmt"
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
		ReceiverIdx: g.index,
		Salt:        wire.NewSalt(uint64(now.Unix()), &commitment),
		AEADOffer:   uint8(seal.ChaCha20Poly1305),
		KEM:         uint8(kem.MLKEM768),
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

// TestMemoryRunsOut fills a gateway with handshakes that nobody goes on with until
// memory is short. Sessions go on, new ones are refused, and taken again once the
// handshakes are forgotten.
//
// Shows R12.6.
func TestMemoryRunsOut(t *testing.T) {
	t.Parallel()
	_, key := newClient(t)
	target := echo(t)
	dir := t.TempDir()
	if err := access.Add(filepath.Join(dir, "clients"), access.Entry{Identity: key.Public()}); err != nil {
		t.Fatal(err)
	}
	g := launchGatewayIn(t, dir, allowEcho+withMetrics+`[handshake]
rate = 1000000
burst = 1000000
tries_per_second = 1000000
max_records = 1000000
record_ttl = "3s"
`, "GOMEMLIMIT=48MiB", "GOMAXPROCS=2") // whatever the number of processors
	parsed, err := uri.Parse(g.uri)
	if err != nil {
		t.Fatal(err)
	}
	session := dial(t, g.uri, key)
	conn, err := session.DialContext(t.Context(), "udp", target)
	if err != nil {
		t.Fatal(err)
	}
	before := g.until("the limit is read", func(f map[string]float64) bool { return f["lewes_memory_used_bytes"] > 0 })
	if before["lewes_memory_limit_bytes"] != 48<<20 {
		t.Errorf("the limit is %v", before["lewes_memory_limit_bytes"])
	}

	flood, err := net.Dial("udp", net.JoinHostPort(parsed.Host, fmt.Sprint(parsed.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer flood.Close()
	makes := newGreeter(parsed.Identity)
	short := map[string]float64{}
	for began := time.Now(); short["lewes_memory_refused_hellos_total"] == 0; short = g.figures() {
		for range 500 {
			hello, request := makes.next(time.Now())
			_, _ = flood.Write(hello) // what is lost is made up for by what comes
			_, _ = flood.Write(request)
		}
		if time.Since(began) > patience {
			t.Fatalf("%d handshakes were not enough: %v", makes.index, short)
		}
	}
	g.awaitLog("memory is short")
	t.Logf("%d handshakes; %.0f MiB before, then %.0f MiB of %.0f MiB", makes.index, before["lewes_memory_used_bytes"]/(1<<20), short["lewes_memory_used_bytes"]/(1<<20), short["lewes_memory_limit_bytes"]/(1<<20))

	buffer := make([]byte, 16)
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := conn.Write([]byte("still here")); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(buffer); err == nil && string(buffer[:n]) == "still here" {
			break
		} else if err != nil {
			t.Fatalf("the session does not carry on: %v", err)
		}
	}

	g.awaitLog("memory is no longer short")
	again, err := client.Dial(t.Context(), client.Config{Gateway: parsed, Identity: key, Keys: new(client.KeyCache), NoReconnect: true})
	if err != nil {
		t.Fatalf("after the shortage: %v", err)
	}
	_ = again.Close()
	after := g.figures()
	if after["lewes_memory_used_bytes"] > 0.8*48*(1<<20) || strings.Count(g.stderr(), "memory is short") != 1 {
		t.Errorf("afterwards: %v", after)
	}
}
