package peers

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

// form is a way in which a program may hold a thing in its memory or its log.
type form struct {
	name  string
	bytes []byte
	// short forms may turn up by chance, as in the random bytes of sealed packets.
	short bool
}

// secret is something that a gateway may or may not know, in all its forms.
type secret struct {
	name  string
	forms []form
}

// address returns an IPv4 address and a port as text, as they stand in packets, in
// the kernel's structures and in those of Go on a little-endian machine.
func address(name string, a netip.AddrPort) secret {
	ip := a.Addr().AsSlice()
	reversed := slices.Clone(ip)
	slices.Reverse(reversed)
	big := binary.BigEndian.AppendUint16(nil, a.Port())
	little := binary.LittleEndian.AppendUint16(nil, a.Port())
	return secret{name, []form{
		{name: "text", bytes: []byte(a.Addr().String())},
		{name: "hexadecimal text", bytes: []byte(hex.EncodeToString(ip))},
		{name: "address and port, as in LP/2", bytes: slices.Concat(ip, little)},
		{name: "address and port, network order", bytes: slices.Concat(ip, big)},
		{name: "sockaddr_in", bytes: slices.Concat(big, ip)},
		{name: "IPv6-mapped address", bytes: slices.Concat([]byte{0xff, 0xff}, ip)},
		{name: "netip.Addr", bytes: slices.Concat(reversed, []byte{0xff, 0xff, 0, 0})},
		{name: "address alone", bytes: ip, short: true},
		{name: "address alone, reversed", bytes: reversed, short: true},
	}}
}

// words returns something that is text wherever it stands.
func words(name, text string) secret {
	return secret{name, []form{{name: "text", bytes: []byte(text)}}}
}

// known returns the forms of each secret that a text or a memory holds, by the
// secrets' names. Short forms count only if every one of the secrets shows the same:
// what leaks one leaks all, and chance does not show three.
func known(in []byte, secrets []secret) map[string][]string {
	found := make(map[string][]string)
	short := make(map[string][]string)
	for _, s := range secrets {
		for _, f := range s.forms {
			switch {
			case !bytes.Contains(in, f.bytes):
			case f.short:
				short[f.name] = append(short[f.name], s.name)
			default:
				found[s.name] = append(found[s.name], f.name)
			}
		}
	}
	for form, names := range short {
		if len(names) == len(secrets) {
			for _, name := range names {
				found[name] = append(found[name], form)
			}
		}
	}
	return found
}

// holds reports as an error each of the secrets that is not there, and thereby
// proves that the search finds such things.
func holds(t *testing.T, who string, in []byte, secrets ...secret) {
	t.Helper()
	found := known(in, secrets)
	for _, s := range secrets {
		if len(found[s.name]) == 0 {
			t.Errorf("%s does not hold %s, which it worked with: the search is blind", who, s.name)
		}
	}
}

// lacks reports as an error each of the secrets that is there.
func lacks(t *testing.T, who string, in []byte, secrets ...secret) {
	t.Helper()
	found := known(in, secrets)
	for _, s := range secrets {
		if forms := found[s.name]; len(forms) > 0 {
			t.Errorf("%s holds %s: %s", who, s.name, strings.Join(forms, "; "))
		}
	}
}

// memory returns all that a process has written to and can write to: heap, stacks,
// buffers, with what was freed and not yet used again.
func memory(t *testing.T, pid int) []byte {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("another process's memory is read through /proc, which is Linux's")
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("this system lets nobody read another process's memory: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		var from, to uint64
		var access string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &access); err != nil {
			t.Fatalf("the line %q in the memory map of process %d: %v", lines.Text(), pid, err)
		}
		if access != "rw-p" {
			continue
		}
		if _, err := io.Copy(&all, io.NewSectionReader(mem, int64(from), int64(to-from))); err != nil {
			t.Fatalf("reading %s of process %d: %v", lines.Text(), pid, err)
		}
		all.Write(make([]byte, 8)) // nothing is found half in one region and half in the next
	}
	return all.Bytes()
}

// TestForms shows the forms of an address in the structures that hold one.
func TestForms(t *testing.T) {
	a := netip.MustParseAddrPort("127.66.77.88:4711")
	udp := net.UDPAddrFromAddrPort(a)
	mapped := a.Addr().As16()
	value := a.Addr()
	for _, test := range []struct {
		form string
		in   []byte
	}{
		{"text", []byte("from 127.66.77.88:4711 to")},
		{"hexadecimal text", []byte("addr=7f424d58 port=1267")},
		{"address and port, as in LP/2", []byte{4, 127, 66, 77, 88, 0x67, 0x12}},
		{"address and port, network order", []byte{127, 66, 77, 88, 0x12, 0x67}},
		{"sockaddr_in", []byte{2, 0, 0x12, 0x67, 127, 66, 77, 88, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"IPv6-mapped address", mapped[:]},
		{"netip.Addr", unsafe.Slice((*byte)(unsafe.Pointer(&value)), unsafe.Sizeof(value))},
		{"address alone", udp.IP.To4()},
		{"address alone, reversed", []byte{88, 77, 66, 127}},
	} {
		if found := known(test.in, []secret{address("it", a)})["it"]; !slices.Contains(found, test.form) {
			t.Errorf("%s: found as %q", test.form, found)
		}
	}
	other := address("other", netip.MustParseAddrPort("127.66.77.89:4711"))
	if found := known([]byte{127, 66, 77, 88}, []secret{address("it", a), other}); len(found) > 0 {
		t.Errorf("a short form of one of two counts: %v", found)
	}
}
