package wireguard

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs f in a network namespace of its own, or skips the test.
func inNamespace(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- errors.Join(errLacking, err)
			return
		}
		done <- f()
	}()
	if err := <-done; errors.Is(err, errLacking) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
}

var errLacking = errors.New("this system or user lacks namespaces, or a firewall in them")

// TestConnectionsAreDeleted: those from and to the address go, others stay.
func TestConnectionsAreDeleted(t *testing.T) {
	mine, other, far := netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.3"), netip.MustParseAddr("198.51.100.1")
	far2 := netip.MustParseAddr("198.51.100.2")
	mine6, far6 := netip.MustParseAddr("fd77::2"), netip.MustParseAddr("2001:db8::1")
	inNamespace(t, func() error {
		c, err := netlink.Dial(netfilter, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		for _, x := range [][2]netip.Addr{{mine, far}, {far2, mine}, {other, far}, {mine6, far6}} {
			if err := track(c, x[0], x[1]); err != nil {
				return errors.Join(errLacking, err)
			}
		}
		count := func(a netip.Addr, side uint32) int {
			found, err := connections(c, a, side)
			if err != nil {
				t.Error(err)
			}
			return len(found)
		}
		if from, to := count(mine, matchSource), count(mine, matchDest); from != 1 || to != 1 {
			t.Errorf("%d connections from the address and %d to it, want 1 and 1", from, to)
		}
		for _, a := range []netip.Addr{mine, mine, mine6} { // the second time there are none
			if err := forgetConnections(a); err != nil {
				return err
			}
		}
		if n := count(mine, matchSource) + count(mine, matchDest) + count(mine6, matchSource); n != 0 {
			t.Errorf("%d connections are left", n)
		}
		if n := count(other, matchSource); n != 1 {
			t.Error("a connection of another address was deleted")
		}
		return nil
	})
}

// track adds a connection of UDP to the table.
func track(c *netlink.Conn, from, to netip.Addr) error {
	e := netlink.NewAttributeEncoder()
	tuple := func(attribute uint16, from, to netip.Addr) {
		e.Nested(attribute, func(e *netlink.AttributeEncoder) error {
			e.Nested(tupleIP, func(e *netlink.AttributeEncoder) error {
				first := uint16(1)
				if from.Is6() {
					first = 3
				}
				e.Bytes(first, from.AsSlice())
				e.Bytes(first+1, to.AsSlice())
				return nil
			})
			e.Nested(2, func(e *netlink.AttributeEncoder) error { // CTA_TUPLE_PROTO
				e.Uint8(1, unix.IPPROTO_UDP)
				e.Bytes(2, []byte{0x30, 0x39})
				e.Bytes(3, []byte{0x30, 0x39})
				return nil
			})
			return nil
		})
	}
	tuple(tupleOrig, from, to)
	tuple(2, to, from)                   // CTA_TUPLE_REPLY
	e.Bytes(7, []byte{0, 0, 0x0e, 0x10}) // CTA_TIMEOUT
	b, err := e.Encode()
	if err != nil {
		return err
	}
	family := byte(familyIPv4)
	if from.Is6() {
		family = familyIPv6
	}
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: 1 << 8, Flags: netlink.Request | netlink.Create | netlink.Acknowledge}, // IPCTNL_MSG_CT_NEW
		Data:   append([]byte{family, 0, 0, 0}, b...),
	})
	return err
}

// TestLacks names forwarding that is off, and NAT that private addresses need.
func TestLacks(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		file := filepath.Join(root, "proc/sys/net", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ipv4/ip_forward", "0\n")
	write("ipv6/conf/all/forwarding", "1\n")
	public4, public6 := netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/64")
	found := Lacks(root, "wg0", public4, public6)
	if len(found) != 1 || found[0].Mend != "sysctl -w net.ipv4.ip_forward=1" {
		t.Errorf("public addresses: %q", found)
	}
	write("ipv4/ip_forward", "1\n")
	if found := Lacks(root, "wg0", public4, public6); len(found) != 0 {
		t.Errorf("all is there: %q", found)
	}
	inNamespace(t, func() error {
		if hasNAT("\x01\x02") {
			return errLacking // its rules cannot be read
		}
		found := Lacks(root, "wg0", netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("fd77::/64"))
		if len(found) != 2 || !strings.Contains(found[0].Mend, "ip saddr 10.77.0.0/24") || !strings.Contains(found[1].Mend, "ip6 saddr fd77::/64") {
			t.Errorf("without rules: %q", found)
		}
		return nil
	})
	for rule, want := range map[string]bool{
		"\x02\x00\x00\x00....masq\x00": true, "\x01\x00\x00\x00..MASQUERADE\x00": true, "\x0a\x00\x00\x00....masq\x00": false, "\x02\x00\x00\x00counter\x00": false, "": false,
	} {
		if translates([]byte(rule), "\x01\x02") != want {
			t.Errorf("rule %q: want %v", rule, want)
		}
	}
}
