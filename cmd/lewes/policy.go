package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/router/policy"
)

func newPolicy() *cobra.Command {
	return group(&cobra.Command{
		Use:   "policy",
		Short: "show whether clients of this machine's gateway may send to a target",
		Example: `  lewes policy test 10.0.0.8:53
  lewes policy test --config /etc/lewes/gateway.toml dns.example.com:53`,
	}, newPolicyTest())
}

// policyLookupTimeout is that of a gateway.
const policyLookupTimeout = 5 * time.Second

func newPolicyTest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test TARGET",
		Short: "show which egress rule decides about a target, and why",
		Long: `Test decides about a target as a gateway with the configuration does, and prints the rule
that decides, the reason, and the change that would allow a denied target. Run it on the
gateway's machine, whose own addresses are among those denied.

TARGET is an address or a host name, with a port. A name is resolved, and each of its
addresses is judged; a gateway sends to the first that is allowed.

The exit code is 0 if the target is allowed, 3 if it is denied, and 1 if that is unknown.`,
		Example: `  lewes policy test 10.0.0.8:53
  lewes policy test "[2001:db8::7]:443" && echo allowed
  lewes policy test --config /etc/lewes/gateway.toml dns.example.com:53
  lewes policy test --json 10.0.0.8:53 | jq -r .addresses[0].remedy`,
		Args: arguments(1, 1, "TARGET"),
	}
	file := cmd.Flags().String("config", "", "configuration `FILE` of the gateway")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		target, err := parseTarget(args[0])
		if err != nil {
			return &usageError{err}
		}
		c := config.Default()
		if *file != "" {
			if c, err = config.Load(*file); err != nil {
				return err
			}
		}
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
		defer stop()
		rules, err := gatewayd.EgressPolicy(ctx, c)
		if err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: decided without all addresses of the gateway: %v\n", err)
		}
		report, err := testPolicy(ctx, rules, target)
		if err != nil {
			return err
		}
		if err := output(cmd, *asJSON, report, report.String()); err != nil || report.Allowed {
			return err
		}
		return errDenied
	}
	return cmd
}

// policyReport is the output of policy test --json.
type policyReport struct {
	Target    string         `json:"target"`
	Allowed   bool           `json:"allowed"` // one of the addresses is
	Addresses []policyResult `json:"addresses"`

	name bool // the target is a name
}

type policyResult struct {
	Address netip.AddrPort `json:"address"`
	Allowed bool           `json:"allowed"`
	By      string         `json:"by"`             // the kind of rule, such as "deny rule" or "own address"
	Rule    string         `json:"rule,omitempty"` // the rule or range
	Why     string         `json:"why"`
	Remedy  string         `json:"remedy,omitempty"`
}

// testPolicy judges a target from parseTarget.
func testPolicy(ctx context.Context, rules *policy.Policy, target string) (*policyReport, error) {
	r := &policyReport{Target: target}
	addrs, err := targetAddrs(ctx, target)
	if err != nil {
		return nil, err
	}
	_, err = netip.ParseAddrPort(target)
	r.name = err != nil
	for _, addr := range addrs {
		d := rules.Explain(addr)
		r.Allowed = r.Allowed || d.Allowed
		r.Addresses = append(r.Addresses, policyResult{addr, d.Allowed, d.Source.String(), d.Rule, d.Why, d.Remedy})
	}
	return r, nil
}

// targetAddrs returns the addresses that a gateway tries, in its order.
func targetAddrs(ctx context.Context, target string) ([]netip.AddrPort, error) {
	if addr, err := netip.ParseAddrPort(target); err == nil {
		return []netip.AddrPort{addr}, nil
	}
	host, service, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	port, err := net.LookupPort("udp", service)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, policyLookupTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("cannot resolve the target: %w", err)
	}
	var addrs []netip.AddrPort
	for _, a := range found {
		addrs = append(addrs, netip.AddrPortFrom(a.Unmap(), uint16(port)))
	}
	return addrs, nil
}

func (r *policyReport) String() string {
	var b strings.Builder
	first := true // no allowed address precedes
	for _, a := range r.Addresses {
		verdict := "denied"
		if a.Allowed {
			verdict = "allowed"
		}
		fmt.Fprintf(&b, "%v is %s: %s\n", a.Address, verdict, a.Why)
		if a.Remedy != "" {
			fmt.Fprintf(&b, "  %s\n", a.Remedy)
		}
		if a.Allowed && r.name && first {
			fmt.Fprintf(&b, "  datagrams to %s go to this address\n", r.Target)
			first = false
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}
