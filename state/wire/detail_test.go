package wire

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func drawDetail(t *rapid.T) Detail {
	s := rapid.String().Draw(t, "detail")
	for len(s) > MaxDetail {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return Detail(strings.ToValidUTF8(s, ""))
}

// Whatever text is handed to Append, the other end takes what is sent of it.
//
// Shows R2.3.
func TestAnyDetailCanBeSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Detail(rapid.SliceOfN(rapid.Byte(), 0, 400).Draw(t, "bytes"))
		sent := d.append(nil)
		got, err := parseDetail(sent)
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%q is sent as %q: %v", []byte(d), sent, err)
		}
		if utf8.Valid(d) && len(d) <= MaxDetail && !bytes.Equal(sent, d) {
			t.Fatalf("%q is sent as %q", []byte(d), sent)
		}
	})
}

// Shows R2.3.
func TestDetailIsCutBetweenCharacters(t *testing.T) {
	for text, want := range map[string]int{
		strings.Repeat("a", 121):      120,
		strings.Repeat("é", 61):       120,
		strings.Repeat("名", 41):       120,
		"a" + strings.Repeat("名", 41): 118,
		strings.Repeat("🌍", 31):       120,
		"":                            0,
	} {
		sent := Detail(text).append(nil)
		if len(sent) != want || !strings.HasPrefix(text, string(sent)) {
			t.Errorf("%q: %d bytes sent, want %d", text, len(sent), want)
		}
	}
}

func TestDetailPrintsNothingThatActs(t *testing.T) {
	for in, want := range map[string]string{
		"plain text, 41 s": "plain text, 41 s",
		"größer 名":         "größer 名",
		"\x1b[2J\n":        "\uFFFD[2J\uFFFD",
		"a\u202Eb\u200B":   "a\uFFFDb\uFFFD",
		"\xff":             "\uFFFD",
	} {
		if got := Detail(in).String(); got != want {
			t.Errorf("%q prints as %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for _, r := range Detail(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")).String() {
			if !unicode.IsPrint(r) && r != utf8.RuneError {
				t.Fatalf("%U is printed", r)
			}
		}
	})
}
