package peers

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// form is a way in which a program may hold something in its memory or its log.
type form struct {
	name  string
	bytes []byte
	// chance marks what is so short that random bytes, such as those of sealed
	// packets, may look like it.
	chance bool
}

// formsOf returns the ways to write an IPv4 address and a port: as text, as it
// stands in packets, in the kernel's structures and in those of Go.
func formsOf(a netip.AddrPort) []form {
	ip := a.Addr().As4()
	reversed := slices.Clone(ip[:])
	slices.Reverse(reversed)
	big := binary.BigEndian.AppendUint16(nil, a.Port())
	little := binary.LittleEndian.AppendUint16(nil, a.Port())
	return []form{
		{name: "text", bytes: []byte(a.Addr().String())},
		{name: "address and port, as in a packet of LP/2", bytes: slices.Concat(ip[:], little)},
		{name: "address and port, network order", bytes: slices.Concat(ip[:], big)},
		{name: "port and address, as in sockaddr_in", bytes: slices.Concat(big, ip[:])},
		{name: "port and address, host order", bytes: slices.Concat(little, ip[:])},
		{name: "as an IPv6 address, as in net.IP and sockaddr_in6", bytes: slices.Concat([]byte{0xff, 0xff}, ip[:])},
		{name: "as in netip.Addr", bytes: slices.Concat(reversed, []byte{0xff, 0xff, 0, 0})},
		{name: "address alone", bytes: ip[:], chance: true},
		{name: "address alone, reversed", bytes: reversed, chance: true},
	}
}

// formsOfName returns the ways to write a host name.
func formsOfName(name string) []form {
	return []form{{name: "text", bytes: []byte(name)}}
}

// found returns the names of the forms that text holds.
func found(text []byte, forms []form) (names []string) {
	for _, f := range forms {
		if bytes.Contains(text, f.bytes) {
			names = append(names, f.name)
		}
	}
	return names
}

// memory copies all that a process can read and write of its own: heap, stacks,
// buffers, and what was freed and not yet used again.
func memory(t *testing.T, pid int) []byte {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("another process's memory is read by way of /proc, which is Linux's")
	}
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("this system does not let us read another process's memory: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	var all []byte
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var access string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &access); err != nil {
			t.Fatalf("the line %q of %s: %v", lines.Text(), maps.Name(), err)
		}
		if access != "rw-p" {
			continue
		}
		region, err := io.ReadAll(io.NewSectionReader(mem, from, to-from))
		if err != nil {
			t.Fatalf("the memory %s of %d: %v", lines.Text(), pid, err)
		}
		all = append(all, region...)
		all = append(all, "\n\n\n\n\n\n\n\n"...) // nothing is found across two regions
	}
	if len(all) < 1<<20 {
		t.Fatalf("%d has only %d bytes of memory; this is not all", pid, len(all))
	}
	return all
}

// party is one end of traffic that a gateway may or may not know of.
type party struct {
	name  string
	forms []form
}

// knows says which parties a process holds something about, each with the forms
// found. What may be chance does not count by itself: it counts when every party
// shows it, which chance does not do.
func knows(text []byte, parties []party) map[string][]string {
	known := make(map[string][]string)
	chance := make(map[string][]string)
	for _, p := range parties {
		for _, f := range p.forms {
			switch {
			case !bytes.Contains(text, f.bytes):
			case f.chance:
				chance[f.name] = append(chance[f.name], p.name)
			default:
				known[p.name] = append(known[p.name], f.name)
			}
		}
	}
	for form, names := range chance {
		if len(names) < len(parties) {
			continue
		}
		for _, name := range names {
			known[name] = append(known[name], form)
		}
	}
	return known
}

// holds fails the test unless each party is known to a process, and nothing is
// found where nothing must be.
func holds(t *testing.T, who string, text []byte, parties []party, want bool) {
	t.Helper()
	known := knows(text, parties)
	for _, p := range parties {
		switch forms := known[p.name]; {
		case want && len(forms) == 0:
			t.Errorf("%s does not hold %s, which it worked with: the search finds nothing", who, p.name)
		case !want && len(forms) > 0:
			t.Errorf("%s holds %s, as %s", who, p.name, strings.Join(forms, "; "))
		}
	}
}
