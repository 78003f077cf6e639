package doctor

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"lewes/crypto/seal"
	"lewes/transport/udp"
)

// System registers the checks of the machine that a gateway runs on. Root is the root of the file system: "/".
func System(c *Checks, root string) {
	c.Register("kernel", func(_ context.Context, r *Results) {
		b, err := os.ReadFile(filepath.Join(root, "proc/sys/kernel/osrelease"))
		if err != nil {
			r.Warn("", "%s: batches of datagrams, offloads and live upgrades need Linux", runtime.GOOS)
			return
		}
		checkKernel(r, strings.TrimSpace(string(b)))
	})
	c.Register("offloads", func(_ context.Context, r *Results) {
		s := udp.Probe()
		if s.GSO == nil && s.GRO == nil {
			r.OK("GSO and GRO work: sent and received over loopback")
			return
		}
		for name, err := range map[string]error{"GSO": s.GSO, "GRO": s.GRO} {
			if err != nil {
				r.Warn("uname -r", "%s does not work, which costs throughput: %v; it needs Linux 5.0 or later", name, err)
			}
		}
	})
	c.Register("aes", func(_ context.Context, r *Results) {
		if seal.Offer()&seal.AES256GCM != 0 {
			r.OK("the CPU has instructions for AES-256-GCM")
			return
		}
		r.Warn("lscpu | grep -i -w aes", "the CPU has no instructions for AES, or the hypervisor hides them: ChaCha20-Poly1305 is used")
	})
	Clock(c)
	c.Register("conntrack", func(_ context.Context, r *Results) { checkConntrack(r, root) })
}

// Clock registers the check of the machine's clock.
func Clock(c *Checks) { c.Register("clock", checkClock) }

// checkKernel grades a release such as 6.1.0-13-amd64.
func checkKernel(r *Results, release string) {
	var version [2]int
	for i, part := range strings.SplitN(release, ".", 3) {
		if i < 2 {
			version[i], _ = strconv.Atoi(part)
		}
	}
	if version[0] < 5 {
		r.Warn("uname -r", "Linux %s has no UDP_GRO, which costs throughput; 5.0 or later has", release)
		return
	}
	r.OK("Linux %s", release)
}

// checkConntrack grades the table of tracked connections: where it is full, the kernel drops datagrams.
func checkConntrack(r *Results, root string) {
	const dir = "proc/sys/net/netfilter/nf_conntrack_"
	used, most := readNumber(filepath.Join(root, dir+"count")), readNumber(filepath.Join(root, dir+"max"))
	mend := "sysctl -w net.netfilter.nf_conntrack_max=" + strconv.Itoa(max(4*most, 262144))
	switch {
	case most <= 0:
		r.OK("the kernel tracks no connections")
	case used >= most*95/100:
		r.Fault(mend, "%d of %d tracked connections: the kernel drops datagrams of new flows", used, most)
	case used >= most*3/4:
		r.Warn(mend, "%d of %d tracked connections; beyond that the kernel drops datagrams of new flows", used, most)
	default:
		r.OK("%d of %d tracked connections", used, most)
	}
}

// readNumber returns the number in a file, or -1.
func readNumber(name string) int {
	b, err := os.ReadFile(name)
	if err != nil {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return -1
	}
	return n
}
