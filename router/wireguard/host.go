package wireguard

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/mdlayher/netlink"
)

// Lack is something without which the packets of peers do not leave this machine, and the command that mends it.
type Lack struct{ Text, Mend string }

// Lacks returns what this machine lacks for the peers of a device: forwarding, and NAT where addresses are
// private. Root is the root of the file system: "/". NAT is taken for present where the rules of the firewall
// cannot be read.
func Lacks(root, device string, v4, v6 netip.Prefix) (found []Lack) {
	for _, x := range []struct {
		of       netip.Prefix
		file     string
		families string // of nf_tables
		cgnat    netip.Prefix
	}{
		{v4, "net/ipv4/ip_forward", "\x01\x02", netip.MustParsePrefix("100.64.0.0/10")},
		{v6, "net/ipv6/conf/all/forwarding", "\x01\x0a", netip.Prefix{}},
	} {
		if !x.of.IsValid() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(root, "proc/sys", x.file))
		if err == nil && strings.TrimSpace(string(b)) == "0" {
			key := strings.ReplaceAll(x.file, "/", ".")
			found = append(found, Lack{fmt.Sprintf("this machine does not forward packets of peers (%s is 0)", key), "sysctl -w " + key + "=1"})
		}
		if (x.of.Addr().IsPrivate() || x.cgnat.Contains(x.of.Addr())) && !hasNAT(x.families) {
			found = append(found, Lack{
				fmt.Sprintf("no rule translates the private addresses of %v", x.of),
				fmt.Sprintf("nft add table inet lewes; nft add chain inet lewes nat '{ type nat hook postrouting priority srcnat; }'; nft add rule inet lewes nat %s saddr %v oifname != %s masquerade",
					map[bool]string{true: "ip", false: "ip6"}[x.of.Addr().Is4()], x.of, device),
			})
		}
	}
	return found
}

// hasNAT reports whether nf_tables has a rule of one of these families that translates source addresses, or may
// have one that this process cannot read.
func hasNAT(families string) bool {
	if b, err := os.ReadFile("/proc/net/ip_tables_names"); err == nil && bytes.Contains(b, []byte("nat")) {
		return true // of the older iptables
	}
	c, err := netlink.Dial(netfilter, nil)
	if err != nil {
		return true
	}
	defer c.Close()
	rules, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: rulesGet, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, genmsgLength),
	})
	if err != nil {
		return true
	}
	for _, r := range rules {
		if translates(r.Data, families) {
			return true
		}
	}
	return false
}

// translates looks for the name of an expression in a rule of nf_tables.
func translates(rule []byte, families string) bool {
	if len(rule) < genmsgLength || !strings.ContainsRune(families, rune(rule[0])) {
		return false
	}
	for _, name := range []string{"masq\x00", "nat\x00", "MASQUERADE\x00", "SNAT\x00"} {
		if bytes.Contains(rule, []byte(name)) {
			return true
		}
	}
	return false
}
