package e2e

import "testing"

// An address that the gateway's machine gets ends the flows to it, which it would answer itself.
//
// Shows R8.12, R8.32.
func TestGatewayGetsTargetsAddress(t *testing.T) {
	t.Parallel()
	s := begun(newTopology(t), steady)
	from := s.gateway.Logged()
	s.must(s.machine["gateway"].IP(t.Context(), "addr", "add", target.Addr().String()+"/32", "dev", "lo"))
	s.gateway.await(from, `applied a change of the network to open flows  {"flows_closed": 1}`)
}
