//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package issuer

import (
	"os"
	"syscall"
	"testing"
)

// TestVoucherOfRoot makes a voucher as root for an issuer that runs as another user.
func TestVoucherOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	b := newBench(t, month)
	if err := os.Chown(b.issuer.vouchers.dir, 4321, 1234); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(b.issuer.vouchers.path(b.voucher(month, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 4321 || owner.Gid != 1234 || info.Mode().Perm() != 0o600 {
		t.Errorf("the voucher belongs to %d:%d, mode %v", owner.Uid, owner.Gid, info.Mode())
	}
}
