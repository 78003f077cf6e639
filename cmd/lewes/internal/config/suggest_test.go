package config

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lewes/router/textfile"
)

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
		if !found || textfile.EditDistance(path, got) > 1 && lastPart(path) != lastPart(got) {
			t.Fatalf("for %q it suggests %q, not %q", path, suggest("", path), key)
		}
	})
}
