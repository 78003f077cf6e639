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

// Property: for any key with one typing error, the suggested key is one edit away.
func TestSuggestCorrectsOneTypingError(t *testing.T) {
	var paths []string
	for _, k := range keys {
		paths = append(paths, k.path)
	}
	if len(paths) < 50 || !slices.Contains(paths, "gateway.uri") || !slices.Contains(paths, "listen") {
		t.Fatalf("the keys are %v", paths)
	}
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SampledFrom(paths).Draw(t, "key")
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
		if slices.Contains(paths, path) || name == "" {
			return
		}
		_, after, found := strings.Cut(suggest("", path), "did you mean ")
		got := strings.TrimSuffix(after, "?")
		if !found || editDistance(path, got) > 1 && lastPart(path) != lastPart(got) {
			t.Fatalf("for %q it suggests %q, not %q", path, suggest("", path), key)
		}
	})
}
