package access

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"lewes/router/account"
	"lewes/router/textfile"
)

// limitKeys are the keys of a line's limits, in the order in which they are written.
var limitKeys = []string{"sessions", "flows", "rate"}

var errCount = errors.New("not a whole number from 1 to 2147483647")

// FormatLimits returns the limits as in a line, "" if there are none.
func FormatLimits(l account.Limits) string {
	var words []string
	if l.Sessions > 0 {
		words = append(words, "sessions="+strconv.Itoa(l.Sessions))
	}
	if l.Flows > 0 {
		words = append(words, "flows="+strconv.Itoa(l.Flows))
	}
	if l.Rate > 0 {
		words = append(words, "rate="+textfile.FormatSize(l.Rate))
	}
	return strings.Join(words, " ")
}

// setLimit sets the limit that a key and its value in a line stand for.
func setLimit(l *account.Limits, key, value string) (err error) {
	switch key {
	case "sessions":
		l.Sessions, err = parseCount(value)
	case "flows":
		l.Flows, err = parseCount(value)
	case "rate":
		var n uint64
		if n, err = textfile.ParseSize(value); err == nil && n == 0 {
			err = errors.New("not a positive number of bytes per second")
		}
		l.Rate = n
	default:
		err = unknownKey(key)
	}
	return err
}

func parseCount(value string) (int, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt32 {
		return 0, errCount
	}
	return int(n), nil
}

func unknownKey(key string) error {
	best := limitKeys[0]
	distance := func(k string) int { return textfile.EditDistance(strings.ToLower(key), k) }
	for _, k := range limitKeys[1:] {
		if distance(k) < distance(best) {
			best = k
		}
	}
	if key != "" && distance(best) <= 1+len(key)/3 {
		return fmt.Errorf("unknown key; did you mean %s?", best)
	}
	return fmt.Errorf("unknown key; the keys are %s", strings.Join(limitKeys, ", "))
}
