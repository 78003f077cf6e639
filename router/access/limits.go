package access

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"lewes/router/account"
	"lewes/router/textfile"
)

// limitKeys are the keys of a line's limits, in the order in which they are written.
var limitKeys = []string{"sessions", "flows", "rate", "bytes", "expires"}

var (
	errCount  = errors.New("not a whole number from 1 to 2147483647")
	errQuota  = errors.New("not a size and a period of whole days or hours, at most 3660 days, such as 10GiB/30d")
	errExpiry = errors.New("not a day from 2000-01-01 to 2999-12-31, such as 2027-01-31")
)

const (
	day       = 24 * time.Hour
	maxPeriod = 3660 * day
)

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
	if l.Bytes > 0 {
		words = append(words, "bytes="+textfile.FormatSize(l.Bytes)+"/"+formatPeriod(l.Period))
	}
	if !l.Expires.IsZero() {
		words = append(words, "expires="+l.Expires.Add(-day).UTC().Format(time.DateOnly))
	}
	return strings.Join(words, " ")
}

func formatPeriod(d time.Duration) string {
	if d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	return strconv.Itoa(int(d/time.Hour)) + "h"
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
	case "bytes":
		l.Bytes, l.Period, err = parseQuota(value)
	case "expires":
		l.Expires, err = parseExpiry(value)
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

// parseQuota parses a number of bytes for each period.
func parseQuota(value string) (uint64, time.Duration, error) {
	size, period, found := strings.Cut(value, "/")
	number, unit := strings.TrimSuffix(period, "d"), day
	if number == period {
		number, unit = strings.TrimSuffix(period, "h"), time.Hour
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if !found || number == period || err != nil || n == 0 || time.Duration(n)*unit > maxPeriod {
		return 0, 0, errQuota
	}
	bytes, err := textfile.ParseSize(size)
	if err == nil && bytes == 0 {
		err = errQuota
	}
	return bytes, time.Duration(n) * unit, err
}

// parseExpiry parses the last day, in UTC, on which a client is admitted, and returns its end.
func parseExpiry(value string) (time.Time, error) {
	last, err := time.Parse(time.DateOnly, value)
	if err != nil || last.Year() < 2000 || last.Year() > 2999 {
		return time.Time{}, errExpiry
	}
	return last.Add(day), nil
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
