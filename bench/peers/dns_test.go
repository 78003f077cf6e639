package peers

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// dnsAddress is where dnsmasq serves: on loopback, and used by nothing else.
const dnsAddress = "127.0.44.53"

// hosts is how many names dnsmasq has beside those that show a kind of record.
const hosts = 250

// host returns one of them.
func host(i int) (name, addr string) {
	return fmt.Sprintf("host-%03d.lewes.test", i), fmt.Sprintf("192.0.2.%d", i+1)
}

// longText makes an answer that fits no datagram of 512 bytes, and just fits the 1232
// that dig offers.
var longText = []string{strings.Repeat("a", 250), strings.Repeat("b", 250), strings.Repeat("c", 250), strings.Repeat("d", 250)}

// need returns the path of a program, or skips the test.
func need(t *testing.T, program, debianPackage string) string {
	t.Helper()
	// Debian keeps servers where a user's PATH does not lead.
	for _, name := range []string{program, filepath.Join("/usr/sbin", program)} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skipf("%s is not installed: apt-get install %s", program, debianPackage)
	return ""
}

// startDNS starts a dnsmasq that knows its own records and asks nobody.
func startDNS(t *testing.T) (server netip.AddrPort) {
	t.Helper()
	program := need(t, "dnsmasq", "dnsmasq-base")
	dir := t.TempDir()
	var table strings.Builder
	for i := range hosts {
		name, addr := host(i)
		fmt.Fprintln(&table, addr, name)
	}
	file := filepath.Join(dir, "hosts")
	if err := os.WriteFile(file, []byte(table.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	free := udpSocket(t, dnsAddress)
	server = addrOf(free)
	args := []string{
		"--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--pid-file=",
		"--no-resolv", "--no-poll", "--no-hosts", "--local=/test/",
		"--bind-interfaces", "--listen-address=" + dnsAddress, "--port=" + strconv.Itoa(int(server.Port())),
		"--addn-hosts=" + file,
		"--host-record=both.lewes.test,192.0.2.254,2001:db8::fe",
		"--address=/wild.test/198.51.100.7",
		"--cname=alias.lewes.test,both.lewes.test",
		"--mx-host=lewes.test,both.lewes.test,10",
		"--txt-record=long.lewes.test," + strings.Join(longText, ","),
	}
	if os.Geteuid() == 0 {
		args = append(args, "--user=root") // only this user can read the table
	}
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	p := start(t, environment(dir), program, args...)
	p.await(t, `started, version`)
	p.await(t, fmt.Sprintf(`read .*%s.* - %d `, file, hosts))
	return server
}

// dig asks by UDP alone, through a local port. It returns the lines that dig prints, and
// how often dig had no answer in time and asked again: a datagram was lost.
func dig(t *testing.T, program string, server netip.AddrPort, args ...string) (lines []string, again int) {
	t.Helper()
	args = append([]string{"-r", "@" + server.Addr().String(), "-p", strconv.Itoa(int(server.Port())), "+notcp", "+ignore", "+time=1", "+tries=5"}, args...)
	for line := range strings.Lines(run(t, environment(t.TempDir()), program, args...)) {
		if strings.HasPrefix(line, ";; communications error") {
			again++
			continue
		}
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	return lines, again
}

// TestDig asks a DNS server by dig, at the local ports of a forward, through one
// gateway and through two.
func TestDig(t *testing.T) {
	program := need(t, "dig", "bind9-dnsutils")
	server := startDNS(t)
	key, client := keygen(t)
	exit := startGateway(t, fmt.Sprintf("[egress]\nallow = [%q]\n", server), client)
	entry := startGateway(t, fmt.Sprintf("[[gateway]]\nuri = %q\n", exit.uri))
	entry.admitAsEntry(t, key)

	mapping := "127.0.0.1:0=" + server.String()
	for _, way := range []struct {
		name string
		args []string
	}{
		{"one gateway", []string{"--gateway", exit.uri.String()}},
		{"two gateways", []string{"--gateway", exit.uri.String(), "--via", entry.uri.String()}},
	} {
		t.Run(way.name, func(t *testing.T) {
			_, local := startForward(t, key, append(way.args, mapping, mapping, mapping)...)
			t.Run("records", func(t *testing.T) { digRecords(t, program, local[0]) })
			t.Run("many", func(t *testing.T) { digMany(t, program, local) })
		})
	}
}

// digRecords asks for each kind of record.
func digRecords(t *testing.T, program string, server netip.AddrPort) {
	var quoted []string
	for _, s := range longText {
		quoted = append(quoted, strconv.Quote(s))
	}
	for _, test := range []struct {
		name, kind string
		want       []string
	}{
		{"host-007.lewes.test", "A", []string{"192.0.2.8"}},
		{"both.lewes.test", "A", []string{"192.0.2.254"}},
		{"both.lewes.test", "AAAA", []string{"2001:db8::fe"}},
		{"anything.at.all.wild.test", "A", []string{"198.51.100.7"}},
		{"alias.lewes.test", "A", []string{"both.lewes.test.", "192.0.2.254"}},
		{"lewes.test", "MX", []string{"10 both.lewes.test."}},
		{"long.lewes.test", "TXT", []string{strings.Join(quoted, " ")}},
	} {
		if got, _ := dig(t, program, server, "+short", test.name, test.kind); !slices.Equal(got, test.want) {
			t.Errorf("%s %s: dig says %q, want %q", test.name, test.kind, got, test.want)
		}
	}
	answer, _ := dig(t, program, server, "nobody.lewes.test", "A")
	if got := strings.Join(answer, "\n"); !strings.Contains(got, "status: NXDOMAIN") {
		t.Errorf("a name that is not there: dig says %s", got)
	}
}

// digMany asks for every host at each local port, at all ports at the same time.
func digMany(t *testing.T, program string, servers []netip.AddrPort) {
	var questions strings.Builder
	var want []string
	for i := range hosts {
		name, addr := host(i)
		fmt.Fprintln(&questions, name, "A")
		want = append(want, addr)
	}
	file := filepath.Join(t.TempDir(), "questions")
	if err := os.WriteFile(file, []byte(questions.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("ports", func(t *testing.T) {
		for _, server := range servers {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				got, again := dig(t, program, server, "+short", "-f", file)
				if !slices.Equal(got, want) {
					t.Errorf("%d answers, or others than asked for: %q", len(got), got)
				}
				if again > hosts/100 { // on a busy machine some datagrams do get lost
					t.Errorf("%d of %d questions had to be asked again", again, hosts)
				}
			})
		}
	})
}
