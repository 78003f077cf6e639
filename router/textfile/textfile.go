// Package textfile holds the syntax that the gateway's text files have in common: sizes, the byte
// order mark, and the search for the key that a misspelt one may stand for.
package textfile

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ErrSize means that a text is not a size.
var ErrSize = errors.New(`not a size: write a number of bytes, or a number and KiB, MiB or GiB, such as "64MiB"`)

var units = []struct {
	name  string
	shift uint
}{{"GiB", 30}, {"MiB", 20}, {"KiB", 10}}

// ParseSize parses a number of bytes, such as "65536", or a number with a unit, such as "64MiB". It
// returns ErrSize if the text is neither, or not below 2^63.
func ParseSize(text string) (uint64, error) {
	digits, shift := text, uint(0)
	for _, u := range units {
		if n, found := strings.CutSuffix(digits, u.name); found {
			digits, shift = n, u.shift
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is %w", text, ErrSize)
	}
	return n << shift, nil
}

// FormatSize formats n for ParseSize, in the largest unit that needs no fraction.
func FormatSize(n uint64) string {
	for _, u := range units {
		if whole := n >> u.shift; n > 0 && whole<<u.shift == n {
			return strconv.FormatUint(whole, 10) + u.name
		}
	}
	return strconv.FormatUint(n, 10)
}

// TrimBOM returns text without a UTF-8 byte order mark at its start.
func TrimBOM(text []byte) []byte { return bytes.TrimPrefix(text, []byte("\ufeff")) }

// EditDistance returns the number of bytes to insert, delete, replace or swap with their neighbour to
// turn a into b.
func EditDistance(a, b string) int {
	before, previous, current := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := range len(a) {
		current[0] = i + 1
		for j := range len(b) {
			replaced := previous[j]
			if a[i] != b[j] {
				replaced++
			}
			current[j+1] = min(replaced, previous[j+1]+1, current[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				current[j+1] = min(current[j+1], before[j-1]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return previous[len(b)]
}
