package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"lewes/bench/e2e/link"
	"lewes/bench/e2e/netns"
	"lewes/bench/e2e/network"
)

// readmeSection returns the blocks of a language in a section of README.md.
func readmeSection(t *testing.T, title, language string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n"+title+"\n")
	if !found {
		t.Fatalf("README.md has no section %q", title)
	}
	rest = regexp.MustCompile(`(?m)^##+ `).Split(rest, 2)[0]
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(rest, -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) == 0 {
		t.Fatalf("section %q has no block in %s", title, language)
	}
	return blocks
}

// readmeNet is a laptop, two servers, and a name server at 9.9.9.9, on which a test runs commands of README.md.
type readmeNet struct {
	t       *testing.T
	dir     string
	network *network.Network
	running []*network.Process // in the background
}

// Machines of readmeNet.
const (
	laptop      = "laptop"
	entryServer = "entry"
	exitServer  = "exit"
)

func newReadmeNet(t *testing.T) *readmeNet {
	t.Helper()
	if testing.Short() {
		t.Skip("a network takes seconds")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	n, err := network.New(t.Context(), launcher(), laptop, entryServer, exitServer, "internet")
	if network.Unavailable(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &readmeNet{t: t, dir: t.TempDir(), network: n}
	t.Cleanup(r.close)
	entryToTarget := [2]netip.Prefix{netip.MustParsePrefix("203.0.113.5/30"), netip.MustParsePrefix("203.0.113.6/30")}
	r.must(n.Wire(t.Context(), entryServer, exitServer, network.EntryToExit))
	r.must(n.Wire(t.Context(), exitServer, "internet", network.ExitToTarget))
	r.must(n.Wire(t.Context(), entryServer, "internet", entryToTarget))
	r.must(n.Machine["internet"].IP(t.Context(), "addr", "add", "9.9.9.9/32", "dev", "lo"))
	r.must(n.Machine[entryServer].IP(t.Context(), "route", "add", "9.9.9.9", "via", entryToTarget[1].Addr().String()))
	r.must(n.Machine[exitServer].IP(t.Context(), "route", "add", "9.9.9.9", "via", network.ExitToTarget[1].Addr().String()))
	var conn *net.UDPConn
	r.must(n.Machine["internet"].Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(9, 9, 9, 9), Port: 53})
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	go serveNames(conn)
	r.must(os.Mkdir(filepath.Join(r.dir, "bin"), 0o700))
	r.must(os.Symlink(program, filepath.Join(r.dir, "bin", "lewes")))
	for _, m := range []string{laptop, entryServer, exitServer} {
		r.must(os.Mkdir(filepath.Join(r.dir, m), 0o700))
	}
	return r
}

func (r *readmeNet) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *readmeNet) close() {
	for _, p := range r.running {
		_ = syscall.Kill(-p.Main.Pid, syscall.SIGKILL) // and its successors
		if r.t.Failed() {
			r.t.Log(p.Log())
		}
	}
	r.network.Close()
}

// command is a shell command on a machine, in whose folder it has its state.
func (r *readmeNet) command(machine, text string) (*netns.Machine, *exec.Cmd) {
	cmd := exec.Command("sh", "-euc", text)
	cmd.Dir = filepath.Join(r.dir, machine)
	cmd.Env = []string{"PATH=" + filepath.Join(r.dir, "bin") + ":" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "XDG_RUNTIME_DIR=" + cmd.Dir, "XDG_STATE_HOME=" + cmd.Dir}
	return r.network.Machine[machine], cmd
}

// start runs a command in the background.
func (r *readmeNet) start(machine, text string) *network.Process {
	r.t.Helper()
	m, cmd := r.command(machine, "exec "+text)
	p, err := network.Start(m, cmd)
	r.must(err)
	r.running = append(r.running, p)
	return p
}

// run runs a command to its end, which may fail, and returns its output.
func (r *readmeNet) run(machine, text string) string {
	r.t.Helper()
	m, cmd := r.command(machine, text)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = m.Do(cmd.Run)
	return out.String()
}

// await waits for a line of a process and returns the part that matches.
func (r *readmeNet) await(p *network.Process, pattern string) string {
	r.t.Helper()
	re := regexp.MustCompile(pattern)
	line, err := p.Await(0, re.MatchString)
	r.must(err)
	return re.FindString(line)
}

// serveNames answers each question for an IPv4 address.
func serveNames(conn *net.UDPConn) {
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buffer[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 80}}}}
		}
		if answer, err := m.Pack(); err == nil {
			_, _ = conn.WriteToUDPAddrPort(answer, from) // who asks asks again
		}
	}
}

// commands returns the commands of a block, each with the comment that names its machine.
func commands(block string) (all [][2]string) {
	about := ""
	for line := range strings.Lines(block) {
		text, comment, found := strings.Cut(strings.TrimSpace(line), "# ")
		if text = strings.TrimSpace(text); text == "" {
			about = comment
			continue
		}
		if !found {
			comment = about
		}
		all = append(all, [2]string{text, comment})
	}
	return all
}

// on returns the machine that a comment names.
func (r *readmeNet) on(comment string) string {
	r.t.Helper()
	for name, machine := range map[string]string{"on the laptop": laptop, "on the server": entryServer, "on the entry": entryServer, "on the exit": exitServer} {
		if strings.Contains(comment, name) {
			return machine
		}
	}
	r.t.Fatalf("no machine: %q", comment)
	return ""
}

const (
	uriPattern      = `lewes://[^ "]+`
	identityPattern = `[1-9A-HJ-NP-Za-km-z]{43,44}`
)

// follow runs the commands of blocks. A gateway or forward stays in the background; vars replace words.
func (r *readmeNet) follow(blocks []string, vars map[string]string) {
	r.t.Helper()
	var forward *network.Process
	for _, c := range slices.Concat(mapped(blocks, commands)...) {
		text, machine := c[0], r.on(c[1])
		for word, value := range vars {
			text = strings.ReplaceAll(text, word, value)
		}
		switch {
		case strings.HasPrefix(text, "lewes gateway"):
			p := r.start(machine, text)
			vars["lewes://IDENTITY@HOST:51264"] = r.await(p, uriPattern)
			r.await(p, "  ready  ")
		case strings.HasPrefix(text, "lewes forward"):
			forward = r.start(machine, text)
			if vars["CLIENT_IDENTITY"] == "" {
				vars["CLIENT_IDENTITY"] = strings.TrimPrefix(r.await(forward, "lewes clients add "+identityPattern), "lewes clients add ")
			}
		case strings.HasPrefix(text, "dig"):
			r.await(forward, "^ready: ")
			if out := r.run(machine, text+" +short"); out != "192.0.2.80\n" {
				r.t.Errorf("%s: %s", text, out)
			}
		default:
			m, cmd := r.command(machine, text)
			out, err := []byte(nil), error(nil)
			if err = m.Do(func() error { out, err = cmd.CombinedOutput(); return err }); err != nil {
				r.t.Fatalf("%s: %v\n%s", text, err, out)
			}
		}
	}
	if forward != nil {
		r.await(forward, "^ready: ")
	}
}

func mapped[T, U any](list []T, f func(T) U) (all []U) {
	for _, x := range list {
		all = append(all, f(x))
	}
	return all
}

// TestReadmeRun runs the commands of the section on the first gateway and client.
func TestReadmeRun(t *testing.T) {
	t.Parallel()
	r := newReadmeNet(t)
	if _, err := exec.LookPath("dig"); err != nil {
		t.Skip(err)
	}
	r.follow(readmeSection(t, "## Run it", "sh"), make(map[string]string))
}

// TestReadmeChain runs the commands of the section on two gateways.
func TestReadmeChain(t *testing.T) {
	t.Parallel()
	r := newReadmeNet(t)
	uriAt := func(p *network.Process, addr netip.Prefix) string {
		return strings.TrimSpace(r.await(p, `^lewes://\S+@`+regexp.QuoteMeta(addr.Addr().String())+`\S*`))
	}
	exit := uriAt(r.start(exitServer, "lewes gateway"), network.EntryToExit[1])
	first := r.start(entryServer, "lewes gateway") // as of the section before, for its URI
	entry := uriAt(first, network.GatewayAddrs[0])
	r.must(first.Kill())
	vars := map[string]string{"CLIENT_IDENTITY": "-", "EXIT_URI": exit, "ENTRY_URI": entry, "IDENTITY_AT_EXIT": strings.TrimSpace(r.run(laptop, "lewes keygen"))}
	vars["IDENTITY_AT_ENTRY"] = strings.TrimSpace(r.run(laptop, "lewes keygen --show --for '"+entry+"'"))
	r.follow(readmeSection(t, "### Through two gateways", "sh"), vars)
}

// TestReadmeCharge runs the commands of the section on one server, and shows that the ticket was spent.
func TestReadmeCharge(t *testing.T) {
	t.Parallel()
	r := newReadmeNet(t)
	vars := make(map[string]string)
	var forward *network.Process
	for _, c := range mapped(readmeSection(t, "## Charge for it", "sh"), commands)[0] {
		text := c[0]
		for word, value := range vars {
			text = strings.ReplaceAll(text, word, value)
		}
		switch {
		case strings.HasPrefix(text, "lewes tickets issuer"):
			vars["ISSUER"] = r.await(r.start(entryServer, text), `^http://\S+`)
		case strings.HasPrefix(text, "lewes gateway"):
			p := r.start(entryServer, text)
			vars["GATEWAY"] = r.await(p, `lewes://[^ "]+access=tickets`)
			r.await(p, "using the keys of an issuer")
		case strings.HasPrefix(text, "lewes forward"):
			forward = r.start(entryServer, text)
			r.await(forward, "^ready: ")
		default:
			out := r.run(entryServer, text)
			want := map[string]string{"lewes tickets voucher": "", "lewes tickets fetch": "3 new tickets", "lewes tickets show": "10 GiB  30 d", "dig -p": "192.0.2.80", "lewes register": "GiB left, until "}
			for command, part := range want {
				if strings.HasPrefix(text, command) && !strings.Contains(out, part) {
					t.Fatalf("%s: %s", text, out)
				}
			}
			if strings.HasPrefix(text, "lewes tickets voucher") {
				vars["VOUCHER"] = strings.TrimSpace(out)
			}
		}
	}
	if out := r.run(entryServer, "lewes tickets show"); !regexp.MustCompile(`(?m)^2 +10 GiB .* ready `).MatchString(out) || !strings.Contains(out, "in use") {
		t.Errorf("after a ticket was spent:\n%s", out)
	}
}

// TestReadmeImport builds and runs the program of the section on the library.
func TestReadmeImport(t *testing.T) {
	t.Parallel()
	r := newReadmeNet(t)
	gateway := r.start(entryServer, "lewes gateway")
	uri := r.await(gateway, uriPattern)
	dir := filepath.Join(r.dir, laptop)
	r.must(os.WriteFile(filepath.Join(dir, "main.go"), []byte(readmeSection(t, "## Import it", "go")[0]), 0o600))
	root, err := filepath.Abs("../..")
	r.must(err)
	sums, err := os.ReadFile(filepath.Join(root, "go.sum")) // so that no checksum has to be asked for
	r.must(err)
	r.must(os.WriteFile(filepath.Join(dir, "go.sum"), sums, 0o600))
	out := ""
	for _, c := range mapped(readmeSection(t, "## Import it", "sh"), commands)[0] {
		// Without a network tidy does not find what only tests of other modules import.
		text := strings.NewReplacer("../lewes", root, "lewes://IDENTITY@HOST:51264", "'"+uri+"'", "mod tidy", "mod tidy -e").Replace(c[0])
		switch {
		case strings.HasPrefix(text, "go run . "): // compiled where modules can be downloaded
			goCommand(t, dir, "go build -o hello .")
			out = r.run(laptop, strings.Replace(text, "go run .", "./hello", 1))
		case strings.HasPrefix(text, "go "):
			goCommand(t, dir, text)
		default:
			r.run(entryServer, "lewes clients add "+strings.TrimSpace(r.run(laptop, text)))
		}
	}
	if out != "[192.0.2.80]\n" {
		t.Errorf("the program prints %s", out)
	}
}

// goCommand runs a command of the Go tool on this machine.
func goCommand(t *testing.T, dir, text string) {
	t.Helper()
	cmd := exec.Command("sh", "-euc", text)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPROXY=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", text, err, out)
	}
}

// TestReadmeOperate asks a gateway with two clients, and a third that it refuses, each question of the section. The
// output has every line of README.md, but for numbers, identities and times.
func TestReadmeOperate(t *testing.T) {
	t.Parallel()
	r := newReadmeNet(t)
	exit := r.start(exitServer, "lewes gateway")
	config := "public = [\"192.0.2.2\"]\n[egress]\ndeny = [\"198.51.100.0/24\"%s]\n[tcp]\nmax_connections = %d\n[[gateway]]\nname = \"exit\"\nuri = %q\n"
	configure := func(deny string, connections int) {
		t.Helper()
		text := fmt.Sprintf(config, deny, connections, r.await(exit, `^lewes://\S+@198\S+`))
		r.must(os.WriteFile(filepath.Join(r.dir, entryServer, "gateway.toml"), []byte(text), 0o600))
	}
	configure("", 5000)
	gateway := r.start(entryServer, "lewes gateway --config gateway.toml")
	uri := r.await(gateway, uriPattern)
	r.await(gateway, "  ready  ")
	join := func(name, key, flags string) *network.Process {
		t.Helper()
		r.run(entryServer, "lewes clients add "+strings.TrimSpace(r.run(laptop, "lewes keygen "+key))+" "+name)
		p := r.start(laptop, "lewes forward --gateway '"+uri+"' "+flags)
		r.await(p, "^ready: ")
		return p
	}
	anna := join("anna-phone", "", "5301=9.9.9.9:53 5302=198.51.100.7:53")
	r.run(entryServer, "lewes upgrade")
	join("ben-laptop", "ben", "--identity ben --transport tcp 5303=9.9.9.9:53")
	r.run(laptop, "lewes keygen stranger")
	r.start(laptop, "lewes forward --identity stranger --gateway '"+uri+"' 0=9.9.9.9:53")
	r.await(gateway, "refused a client that is not in the list")
	for _, port := range []int{5301, 5303} {
		r.run(laptop, fmt.Sprintf("dig -p %d @127.0.0.1 example.org", port))
	}
	r.run(laptop, "dig -p 5302 @127.0.0.1 example.org +tries=1 +timeout=1")
	r.await(anna, "target denied")
	r.network.Link.Both(link.Faults{Delay: 20 * time.Millisecond})

	for _, block := range readmeSection(t, "## Operate a gateway", "console") {
		command, want := "", []string(nil)
		check := func() {
			t.Helper()
			if command == "" {
				return
			}
			machine, text := entryServer, strings.Replace(command, "lewes://IDENTITY@HOST:51264", uri, 1)
			if text != command {
				machine = laptop
			}
			if strings.Contains(text, "lewes reload") {
				configure(", \"203.0.113.0/24\"", 6000)
			}
			missing := func(out string) string {
				got := strings.Split(strings.Replace(out, filepath.Join(r.dir, entryServer, "gateway.toml"), "/etc/lewes/gateway.toml", 1), "\n")
				for _, line := range want {
					if !slices.ContainsFunc(got, func(l string) bool { return readmeShape(command, l) == readmeShape(command, line) }) {
						return line
					}
				}
				return ""
			}
			out := r.run(machine, text)
			// A busy machine may be late with what a question is about.
			asks := regexp.MustCompile(`^lewes (status|clients list|doctor)`).MatchString(text)
			for began := time.Now(); asks && missing(out) != "" && time.Since(began) < patience; out = r.run(machine, text) {
				time.Sleep(50 * time.Millisecond)
			}
			if line := missing(out); line != "" {
				t.Errorf("%s has no line as in README.md\n%s\nbut:\n%s", command, line, out)
			}
		}
		for line := range strings.Lines(block) {
			line = strings.TrimRight(line, "\n")
			if text, ok := strings.CutPrefix(line, "$ "); ok {
				check()
				text, _, _ = strings.Cut(text, "   #")
				command, want = text, nil
			} else if strings.TrimSpace(line) != "" && !strings.HasPrefix(line, remedyIndent) {
				want = append(want, line)
			}
		}
		check()
	}
}

// remedyIndent begins the line with a command that mends a finding of doctor.
const remedyIndent = "                  "

var (
	shapeNumber = regexp.MustCompile(`\S*\d\S*|\(devel\),?`)
	shapeUnit   = regexp.MustCompile(`# (B|[KMGT]iB)\b`)
	shapePlural = regexp.MustCompile(`# (\w+?)s\b`)
)

// readmeShape returns a line of output without the parts that differ from run to run. Of doctor only the names of the
// checks are left, and of status those of lines about the system, as machines differ.
func readmeShape(command, line string) string {
	fields := strings.Fields(line)
	if strings.HasPrefix(command, "lewes doctor") && len(fields) > 1 && slices.Contains([]string{"ok", "warning", "fault"}, fields[0]) {
		return fields[1]
	}
	if command == "lewes status" && len(fields) > 0 && slices.Contains([]string{"health", "udp"}, fields[0]) {
		return fields[0]
	}
	line = regexp.MustCompile(identityPattern).ReplaceAllString(strings.Join(fields, " "), "1")
	line = regexp.MustCompile(`\b[0-9a-f]{32}\b`).ReplaceAllString(line, "1")
	line = strings.ReplaceAll(line, " - ", " 1 ") // not measured
	line = shapeNumber.ReplaceAllString(line, "#")
	line = shapeUnit.ReplaceAllString(line, "# U")
	return shapePlural.ReplaceAllString(line, "# $1")
}
