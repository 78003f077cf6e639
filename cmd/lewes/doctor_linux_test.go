package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"lewes/cmd/lewes/internal/doctor"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/transport/uri"
)

// diagnose runs doctor and returns the findings by check, and the exit code.
func diagnose(t *testing.T, args ...string) (byCheck map[string][]doctor.Finding, code int) {
	t.Helper()
	stdout, stderr, code := lewes(t, environment(t.TempDir()), append([]string{"doctor", "--json"}, args...)...)
	if code != exitOK && code != exitFailed {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var r doctor.Report
	parseJSON(t, stdout, &r)
	if (r.Faults > 0) != (code == exitFailed) {
		t.Errorf("exit code %d with %d faults", code, r.Faults)
	}
	byCheck = make(map[string][]doctor.Finding)
	for _, f := range r.Findings {
		byCheck[f.Check] = append(byCheck[f.Check], f)
	}
	return byCheck, code
}

// expect fails the test unless the findings of a check are of these grades and contain the text.
func expect(t *testing.T, all map[string][]doctor.Finding, check, text string, grades ...doctor.Grade) {
	t.Helper()
	ok := len(all[check]) == len(grades)
	for i := range min(len(grades), len(all[check])) {
		ok = ok && all[check][i].Grade == grades[i]
	}
	if !ok || !strings.Contains(fmt.Sprintf("%+v", all[check]), text) {
		t.Errorf("%s: %+v, want %v and %q", check, all[check], grades, text)
	}
}

func TestDoctorOfGateway(t *testing.T) {
	t.Parallel()
	_, key := newClient(t)
	g := launchGateway(t, "", key)
	all, _ := diagnose(t, "--state", g.dir)
	for _, check := range []string{"kernel", "offloads", "aes", "clock", "conntrack", "buffers", "descriptors", "capabilities"} {
		if len(all[check]) == 0 {
			t.Errorf("nothing about %s", check)
		}
	}
	expect(t, all, "gateway", fmt.Sprint("process ", g.cmd.Process.Pid), doctor.OK)
	expect(t, all, "health", "accepts new clients", doctor.OK)
	expect(t, all, "ports", "answers on this machine", doctor.OK, doctor.OK)
	if strings.Contains(g.stderr(), "refused a client") {
		t.Errorf("the check of the ports looks like a client: %s", g.stderr())
	}
	code, body := request(t, g.socket(), http.MethodGet, gatewayd.DoctorEndpoint, "")
	if code != http.StatusOK || !strings.Contains(body, `"check":"offloads"`) {
		t.Errorf("GET %s: %d %s", gatewayd.DoctorEndpoint, code, body)
	}
	has(t, mustText(t, "--state", g.dir), "\nok ", "warnings: ")

	draining := launchGateway(t, "", key)
	mustLewes(t, environment(draining.dir), "drain", "--state", draining.dir)
	all, code = diagnose(t, "--state", draining.dir)
	expect(t, all, "health", "lewes drain --off", doctor.Fault)
	if code != exitFailed {
		t.Errorf("exit code %d", code)
	}

	all, _ = diagnose(t, "--state", t.TempDir())
	expect(t, all, "gateway", "none runs here", doctor.Fault)
}

// mustText returns the output of doctor as text.
func mustText(t *testing.T, args ...string) string {
	t.Helper()
	stdout, _, _ := lewes(t, environment(t.TempDir()), append([]string{"doctor"}, args...)...)
	return stdout
}

func TestWaysTakeOneAddressOfEachFamily(t *testing.T) {
	var found []netip.Addr
	for _, a := range []string{"::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"} {
		found = append(found, netip.MustParseAddr(a))
	}
	var got []string
	for _, w := range waysTo(found) {
		got = append(got, fmt.Sprint(w, " ", w.addr))
	}
	if want := "udp over IPv4 192.0.2.1, tcp over IPv4 192.0.2.1, udp over IPv6 2001:db8::1, tcp over IPv6 2001:db8::1"; strings.Join(got, ", ") != want {
		t.Errorf("ways %q", got)
	}
}

func TestDoctorOfClient(t *testing.T) {
	t.Parallel()
	file, key := newClient(t)
	g := launchGateway(t, "", key)
	at, err := uri.Parse(g.uri)
	if err != nil {
		t.Fatal(err)
	}
	entry := launchGateway(t, fmt.Sprintf("[[gateway]]\nuri = %q\n", g.uri))
	atEntry, err := uri.Parse(entry.uri)
	if err != nil {
		t.Fatal(err)
	}
	entry.list(key.ForEntry(atEntry.Identity).Public())
	for _, args := range [][]string{{g.uri}, {"--via", entry.uri, g.uri}} {
		all, _ := diagnose(t, append(args, "--identity", file)...)
		expect(t, all, "reach", "connected to 127.0.0.1", doctor.OK, doctor.OK)
		expect(t, all, "access", "admits", doctor.OK)
		expect(t, all, "nat", "on this machine", doctor.OK)
		expect(t, all, "mtu", "bytes pass", doctor.OK)
		if len(all["loss"]) != 1 || len(all["clock"]) != 1 {
			t.Errorf("findings %+v", all)
		}
	}

	stranger, other := newClient(t)
	all, _ := diagnose(t, g.uri, "--identity", stranger, "--timeout", "2s")
	expect(t, all, "reach", "answers", doctor.OK, doctor.OK)
	expect(t, all, "access", "lewes clients add "+other.Public().String(), doctor.Fault)

	blocked := at
	_, port, _ := strings.Cut(silent(t), "127.0.0.1:")
	if _, err := fmt.Sscan(port, &blocked.Port); err != nil {
		t.Fatal(err)
	}
	all, code := diagnose(t, blocked.String(), "--identity", file, "--timeout", "2s")
	expect(t, all, "reach", "blocked on the way", doctor.Warning, doctor.OK)
	expect(t, all, "mtu", "TCP", doctor.OK)
	if code != exitOK {
		t.Errorf("exit code %d although TCP works", code)
	}

	nowhere := at
	nowhere.Host = "does-not-resolve.invalid"
	all, _ = diagnose(t, nowhere.String(), "--identity", file)
	expect(t, all, "name", "does not resolve", doctor.Fault)
	if len(all["mtu"]) != 0 {
		t.Errorf("findings without a session: %+v", all)
	}
}
