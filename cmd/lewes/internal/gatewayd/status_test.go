package gatewayd

import (
	"slices"
	"testing"

	"lewes/router"
)

// TestUnlistedClientsAreCountedOnce: the packets that they are refused by are not listed again.
func TestUnlistedClientsAreCountedOnce(t *testing.T) {
	stats := &router.Stats{Refused: 5}
	stats.Handshakes.Unlisted = 3
	got := listRefusals(stats, nil, nil)
	if want := []Refusal{{"client", "not listed", "", 3}, {"packet", "refused", "", 2}}; !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}
