package config

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"port", "port", 0}, {"port", "", 4}, {"", "port", 4}, {"prot", "port", 1}, {"por", "port", 1},
		{"pport", "port", 1}, {"pirt", "port", 1}, {"ab", "ba", 1}, {"abc", "ca", 3}, {"kitten", "sitting", 3},
	} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("from %q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// Property: whatever single slip of the keyboard is made in whatever key, what is
// suggested is that one slip away.
func TestOneSlipIsUnderstood(t *testing.T) {
	var keys []string
	for known := range schema.below() {
		keys = append(keys, known.path)
	}
	if len(keys) < 50 || !slices.Contains(keys, "gateway.uri") || !slices.Contains(keys, "listen") {
		t.Fatalf("the keys are %v", keys)
	}
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SampledFrom(keys).Draw(t, "key")
		name := lastPart(key)
		i := rapid.IntRange(0, len(name)-1).Draw(t, "at")
		letter := string(rapid.SampledFrom([]rune("aeiortz_")).Draw(t, "letter"))
		switch rapid.IntRange(0, 3).Draw(t, "slip") {
		case 0:
			name = name[:i] + name[i+1:]
		case 1:
			name = name[:i] + letter + name[i:]
		case 2:
			name = name[:i] + letter + name[i+1:]
		case 3:
			if i > 0 {
				name = name[:i-1] + name[i:i+1] + name[i-1:i] + name[i+1:]
			}
		}
		path := key[:len(key)-len(lastPart(key))] + name
		if slices.Contains(keys, path) || name == "" {
			return
		}
		_, after, found := strings.Cut(schema.instead(path), "did you mean ")
		got := strings.TrimSuffix(after, "?")
		if !found || editDistance(path, got) > 1 && lastPart(path) != lastPart(got) {
			t.Fatalf("for %q it suggests %q, not %q", path, schema.instead(path), key)
		}
	})
}
