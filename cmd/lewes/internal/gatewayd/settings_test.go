package gatewayd

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/router/access"
	"lewes/router/policy"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

// TestEveryBoundReachesTheGateway gives every bound of the configuration a distinct value and looks for
// it in the router's configuration.
//
// Shows R12.5.
func TestEveryBoundReachesTheGateway(t *testing.T) {
	c := config.Default()
	c.Access.Mode = config.AccessOpen
	next := int64(1001)
	want := map[string]string{} // value to key
	for _, section := range []any{&c.Handshake, &c.Session, &c.Flows, &c.Forward, &c.TCP} {
		v := reflect.ValueOf(section).Elem()
		for i := range v.NumField() {
			key := v.Type().Name() + "." + v.Type().Field(i).Name
			switch f := v.Field(i); {
			case f.Type() == reflect.TypeFor[config.Duration]():
				f.SetInt(next * int64(time.Second))
				want[fmt.Sprint(time.Duration(next)*time.Second)] = key
			case f.CanInt():
				f.SetInt(next)
				want[fmt.Sprint(next)] = key
			case f.CanFloat():
				f.SetFloat(float64(next))
				want[fmt.Sprint(float64(next))] = key
			}
			next++
		}
	}
	if len(want) != 16 {
		t.Errorf("%d bounds: %v", len(want), want)
	}
	settings := routerConfig(c, identity.FromSeed(&[32]byte{1}), openAccess(), policy.New(policy.Config{}), zap.NewNop())
	var look func(v reflect.Value)
	look = func(v reflect.Value) {
		for i := range v.NumField() {
			switch f := v.Field(i); {
			case f.Kind() == reflect.Struct:
				look(f)
			case f.CanInt() || f.CanUint() || f.CanFloat():
				delete(want, fmt.Sprint(f.Interface()))
			}
		}
	}
	look(reflect.ValueOf(settings))
	for value, key := range want {
		t.Errorf("%s = %s does not reach the gateway", key, value)
	}
}

func TestRouterConfigSetsEveryField(t *testing.T) {
	c := config.Default()
	c.Listen.Shards, c.Listen.Pin = 3, true
	c.Listen.Addresses = []config.Address{{AddrPort: netip.MustParseAddrPort("192.0.2.1:443")}}
	c.Listen.ReceiveBuffer, c.Listen.Offload = 0, config.OffloadOff
	c.Public = []config.Host{{Name: "203.0.113.7"}, {Name: "gw.example"}}
	c.TCP.Port = 444
	c.Egress.Allow = []policy.Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
	c.Egress.Deny = []policy.Rule{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}}
	exit := uri.Gateway{Identity: identity.FromSeed(&[32]byte{2}).Public(), Host: "192.0.2.9", Port: 5}
	c.Gateways = []config.Gateway{{URI: exit}}
	g := listedAccess(new(access.List))
	rules, err := newEgress(c, names{})
	if err != nil {
		t.Fatal(err)
	}
	s := routerConfig(c, identity.FromSeed(&[32]byte{1}), g, rules.policy, zap.NewNop())

	own := map[string]bool{ // the router's defaults apply, or Process sets it
		"Suites": true, "Tolerance": true, "HandshakeMemory": true, "OnSessionEnd": true, "Metering": true, "Registration": true, "MaxBacklog": true, "TrustedRate": true, "Egress": true, "Resolver": true, "Rand": true, "Clock": true, "Wall": true,
	}
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() != own[name] {
			t.Errorf("%s is %v", name, v.Field(i))
		}
	}
	if l := s.Listen; !slices.Equal(l.Addrs, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443")}) || l.Port != uri.DefaultPort || l.ReceiveBuffer != -1 || l.SendBuffer != 4<<20 || !l.NoGSO || !l.NoGRO || !l.Portable {
		t.Errorf("listens as %+v", l)
	}
	if l := s.TCP.Listen; !s.TCP.On || !slices.Equal(l.Addrs, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:0")}) || l.Port != 444 {
		t.Errorf("listens as %+v over TCP", s.TCP)
	}
	for target, allowed := range map[string]bool{
		"192.0.2.77:53": true, "10.1.2.3:53": true, "198.51.100.1:53": false, "127.0.0.1:53": false,
		"203.0.113.7:53": false, // its own public address
	} {
		if got := s.Policy.Allowed(netip.MustParseAddrPort(target)); got != allowed {
			t.Errorf("%s allowed: %v", target, got)
		}
	}
	if err := s.Directory.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if at, ok := s.Directory.Find(exit.Identity); !ok || at != netip.MustParseAddrPort("192.0.2.9:5") {
		t.Errorf("the exit is at %v, %v", at, ok)
	}
	if s.Access(exit.Identity).Admitted {
		t.Error("an empty list admits a client")
	}
	c.Access.Mode, c.Gateways = config.AccessOpen, nil
	if s := routerConfig(c, identity.FromSeed(&[32]byte{1}), openAccess(), policy.New(policy.Config{}), zap.NewNop()); !s.Access(exit.Identity).Admitted || s.Directory != nil {
		t.Error("an open gateway refuses a client, or has a directory that is not configured")
	}
}

func TestOffloadOnRequiresKernelSupport(t *testing.T) {
	refuses := errors.New("protocol not available")
	for _, row := range []struct {
		offload  config.Offload
		gso, gro bool
		kernel   udp.Support
		refused  string
	}{
		{config.OffloadAuto, true, true, udp.Support{GSO: refuses, GRO: refuses}, ""},
		{config.OffloadOff, true, true, udp.Support{GSO: refuses, GRO: refuses}, ""},
		{config.OffloadOn, true, true, udp.Support{}, ""},
		{config.OffloadOn, false, false, udp.Support{GSO: refuses, GRO: refuses}, ""},
		{config.OffloadOn, true, false, udp.Support{GSO: refuses}, "gso"},
		{config.OffloadOn, false, true, udp.Support{GSO: refuses}, ""},
		{config.OffloadOn, false, true, udp.Support{GRO: refuses}, "gro"},
		{config.OffloadOn, true, false, udp.Support{GRO: refuses}, ""},
	} {
		err := checkOffloads(&config.Listen{Offload: row.offload, GSO: row.gso, GRO: row.gro}, row.kernel)
		switch {
		case (err != nil) != (row.refused != ""):
			t.Errorf("%+v: %v", row, err)
		case err != nil:
			for _, piece := range []string{`listen.offload is "on"`, "refuses " + row.refused, refuses.Error(), `set offload to "auto"`} {
				if !strings.Contains(err.Error(), piece) {
					t.Errorf("error %q lacks %q", err, piece)
				}
			}
		}
	}
}

// TestMemoryLimitFromConfigurationOrEnvironment: the environment takes precedence.
func TestMemoryLimitFromConfigurationOrEnvironment(t *testing.T) {
	last := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(last)
	c := config.Default()
	c.MemoryLimit = 1 << 40
	t.Setenv("GOMEMLIMIT", "2TiB") // the runtime reads it only at its start
	if limitMemory(c); debug.SetMemoryLimit(-1) != last {
		t.Error("the configuration overrides the environment")
	}
	if err := os.Unsetenv("GOMEMLIMIT"); err != nil {
		t.Fatal(err)
	}
	if limitMemory(c); debug.SetMemoryLimit(-1) != 1<<40 {
		t.Error("the configuration's limit is not set")
	}
	c.MemoryLimit = 0
	if limitMemory(c); debug.SetMemoryLimit(-1) != math.MaxInt64 {
		t.Error("a configuration without a limit, read again, leaves the one before it")
	}
}
