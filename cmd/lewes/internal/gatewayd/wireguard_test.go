package gatewayd

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"

	"go.uber.org/zap/zaptest"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/doctor"
	"lewes/crypto/identity"
)

// TestMissingWireGuardDevice: the gateway starts without its device, and lewes doctor names it and the remedy.
func TestMissingWireGuardDevice(t *testing.T) {
	c, err := config.Parse([]byte("public = [\"gw.example.com:443\"]\n[wireguard]\ndevice = \"no-such-wg\"\nipv4 = \"10.77.0.0/16\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := newWireGuard(c, identity.FromSeed(&[32]byte{1}), nil, true, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		d.Run(ctx)
		close(done)
	}()
	if err := d.Reconcile(ctx, nil); err != nil {
		t.Error(err)
	}
	cancel()
	<-done
	if _, endpoint := d.Data(); endpoint != "gw.example.com:0" {
		t.Errorf("endpoint %s", endpoint)
	}
	var found []doctor.Finding
	var checks doctor.Checks
	checks.Register("wireguard", func(_ context.Context, r *doctor.Results) { checkWireGuard(r, d, &c.WireGuard) })
	found = checks.Run(t.Context()).Findings
	if len(found) == 0 || found[0].Grade != doctor.Fault || !strings.Contains(found[0].Text, "no-such-wg") || found[0].Mend == "" {
		t.Errorf("%+v", found)
	}

	if d, err := newWireGuard(config.Default(), nil, nil, true, nil); d != nil || err != nil {
		t.Errorf("without a device: %v, %v", d, err)
	}
}

func TestWireGuardRemedy(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{{fs.ErrNotExist, "wg-quick@wg0"}, {os.NewSyscallError("netlink", fs.ErrPermission), "CAP_NET_ADMIN"}, {errors.New("other"), "wg show wg0"}} {
		if got := wireGuardRemedy("wg0", c.err); !strings.Contains(got, c.want) {
			t.Errorf("%v: %s", c.err, got)
		}
	}
}

func TestInterfaceAddresses(t *testing.T) {
	all, err := interfaceAddresses()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if a == netip.MustParseAddr("127.0.0.1") || a == netip.IPv6Loopback() {
			return
		}
	}
	t.Errorf("the loopback address is missing in %v", all)
}
