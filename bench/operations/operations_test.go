package operations

import (
	"testing"
	"time"
)

func TestMeasure(t *testing.T) {
	c, err := Measure(140 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for name, cost := range map[string]time.Duration{
		"sign": c.Sign, "verify": c.Verify, "convert": c.Convert, "generate": c.Generate,
		"agree": c.Agree, "decapsulate": c.Decapsulate, "encapsulate": c.Encapsulate,
	} {
		if cost < 100*time.Nanosecond || cost > 50*time.Millisecond {
			t.Errorf("%s takes %v", name, cost)
		}
	}
}

func TestSums(t *testing.T) {
	c := Costs{Sign: 1, Verify: 10, Convert: 100, Generate: 1000, Agree: 10_000, Decapsulate: 100_000, Encapsulate: 1_000_000}
	if got := c.Handshake(false); got != 141_111 {
		t.Errorf("a handshake takes %d", got)
	}
	if got := c.Handshake(true); got != 141_110 {
		t.Errorf("a handshake with a known key takes %d", got)
	}
	if got := c.Subsession(); got != 1_041_000 {
		t.Errorf("a subsession takes %d", got)
	}
}
