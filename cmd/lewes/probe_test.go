//go:build unix

package main

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"lewes/transport/uri"
)

// steps returns the names and results of a probe's steps.
func (r *probeResult) steps() (s []string) {
	for _, step := range r.Steps {
		s = append(s, step.Name+" "+step.Result)
	}
	return s
}

func TestProbe(t *testing.T) {
	file, key := newClient(t)
	exit := launchGateway(t, allowEcho, key)
	entry := launchGateway(t, fmt.Sprintf("[[gateway]]\nuri = %q\n", exit.uri))
	env := environment(t.TempDir())
	target := echo(t)
	at, err := uri.Parse(entry.uri)
	if err != nil {
		t.Fatal(err)
	}
	entry.list(key.ForEntry(at.Identity).Public())

	for _, row := range []struct {
		name      string
		args      []string
		kem       string
		want      []string
		datagrams bool
	}{
		{"plain", nil, "ML-KEM-768", []string{"hello ok", "key ok", "handshake ok", "ping ok", "datagram skipped"}, false},
		{"with a datagram", []string{"--target", target}, "ML-KEM-768", []string{"hello ok", "key ok", "handshake ok", "ping ok", "datagram ok"}, true},
		{"through an entry, X-Wing", []string{"--via", entry.uri, "--kem", "X-Wing", "--target", target}, "X-Wing", []string{"entry ok", "hello ok", "key ok", "handshake ok", "ping ok", "datagram ok"}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			var r probeResult
			parseJSON(t, mustLewes(t, env, append([]string{"probe", "--json", "--identity", file, exit.uri}, row.args...)...), &r)
			if !r.OK || r.Failed != "" || r.Gateway != exit.uri || r.Client != key.Public().String() || r.KEM != row.kem || r.AEAD == "" {
				t.Errorf("it says %+v", r)
			}
			if got := r.steps(); !slices.Equal(got, row.want) {
				t.Errorf("steps %q, want %q", got, row.want)
			}
			for _, s := range r.Steps {
				if s.Result == "ok" && (s.Millis == nil || *s.Millis < 0 || *s.Millis > 1000*patience.Seconds()) {
					t.Errorf("%s took %v ms", s.Name, s.Millis)
				}
			}
		})
	}

	table := mustLewes(t, env, "probe", "--identity", file, "--target", target, "--payload", "hello", exit.uri)
	has(t, table, "gateway  "+exit.uri+"\n", "client   "+key.Public().String()+"\n", "ML-KEM-768, signed by the gateway's identity", "5 bytes to "+target+", 5 bytes back")
}

// TestProbeNamesTheStep that fails: which it is, in the table, as JSON and as an error.
func TestProbeNamesTheStep(t *testing.T) {
	t.Parallel()
	file, key := newClient(t)
	g := launchGateway(t, "", key)
	stranger, _ := newClient(t)
	entry := launchGateway(t, fmt.Sprintf("[[gateway]]\nuri = %q\n", g.uri), key)
	env := environment(t.TempDir())
	for _, row := range []struct {
		name   string
		step   string
		before []string
		args   []string
	}{
		{"unresolvable", stepName, nil, []string{"--identity", file, "lewes://" + key.Public().String() + "@does-not-resolve.invalid"}},
		{"nobody there", stepHello, nil, []string{"--identity", file, "lewes://" + key.Public().String() + "@" + silent(t)}},
		{"not listed", stepHandshake, []string{"hello ok", "key ok"}, []string{"--identity", stranger, g.uri}},
		{"not listed at the entry", stepEntry, nil, []string{"--identity", stranger, "--via", g.uri, "lewes://" + key.Public().String() + "@gw.example"}},
		{"not there behind the entry", stepEntry, nil, []string{"--identity", stranger, "--via", "lewes://" + key.Public().String() + "@" + silent(t), g.uri}},
		{"not listed at the exit", stepHandshake, []string{"entry ok", "hello ok", "key ok"}, []string{"--identity", stranger, "--via-identity", file, "--via", entry.uri, g.uri}},
		{"no answer", stepDatagram, []string{"hello ok", "key ok", "handshake ok", "ping ok"}, []string{"--identity", file, "--target", "127.0.0.1:9", g.uri}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"probe", "--timeout", "1500ms"}, row.args...)
			stdout, stderr, code := lewes(t, env, args...)
			if code != exitFailed {
				t.Errorf("exit code %d", code)
			}
			has(t, stderr, fmt.Sprintf("lewes probe: step %q failed: ", row.step))
			has(t, stdout, "\n"+row.step+" ", "failed")

			stdout, _, code = lewes(t, env, append(args, "--json")...)
			var r probeResult
			parseJSON(t, stdout, &r)
			if code != exitFailed || r.OK || r.Failed != row.step || r.Error == "" || !slices.Equal(r.steps(), append(row.before, row.step+" failed")) {
				t.Errorf("exit code %d, JSON says %+v", code, r)
			}
		})
	}
}

// TestInterrupted: a signal is no error about contexts.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	file, key := newClient(t)
	for _, command := range []string{"probe", "ping", "register --mode balance --gateway"} {
		t.Run(command, func(t *testing.T) {
			server, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			args := append(strings.Fields(command), "lewes://"+key.Public().String()+"@"+server.LocalAddr().String(), "--identity", file)
			p := launch(t, environment(t.TempDir()), args...)
			if _, _, err := server.ReadFrom(make([]byte, 1500)); err != nil { // the hello: it has begun
				t.Fatal(err)
			}
			if code := p.end(); code != exitFailed {
				t.Errorf("exit code %d", code)
			}
			has(t, p.stderr(), "lewes "+args[0]+": interrupted\n")
			hasNot(t, p.stdout()+p.stderr(), "context")
		})
	}
}
