package report

import (
	"fmt"
	"math"
	"strconv"

	"lewes/bench/measure"
)

// rate prints a number a second.
func rate(v float64) string {
	switch a := math.Abs(v); {
	case a >= 999_500:
		return strconv.FormatFloat(v/1e6, 'f', 2, 64) + " M"
	case a >= 9_950:
		return strconv.FormatFloat(v/1e3, 'f', 0, 64) + " k"
	case a >= 999.5:
		return strconv.FormatFloat(v/1e3, 'f', 1, 64) + " k"
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// bits prints bits a second.
func bits(v float64) string {
	if v >= 1e9 {
		return strconv.FormatFloat(v/1e9, 'f', 2, 64) + " Gbit"
	}
	return strconv.FormatFloat(v/1e6, 'f', 0, 64) + " Mbit"
}

// micros prints microseconds with as many digits as they deserve.
func micros(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// memory prints an amount of memory.
func memory(v float64) string {
	switch {
	case v >= 1<<30:
		return strconv.FormatFloat(v/(1<<30), 'f', 2, 64) + " GiB"
	case v >= 1<<20:
		return strconv.FormatFloat(v/(1<<20), 'f', 0, 64) + " MiB"
	case v >= 10<<10:
		return strconv.FormatFloat(v/(1<<10), 'f', 0, 64) + " KiB"
	case v >= 1<<10:
		return strconv.FormatFloat(v/(1<<10), 'f', 2, 64) + " KiB"
	}
	return strconv.FormatFloat(v, 'f', 0, 64) + " B"
}

// percent prints a loss.
func percent(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.0001:
		return "<0.01 %"
	}
	return strconv.FormatFloat(100*v, 'f', 2, 64) + " %"
}

// train prints how many datagrams a message has.
func train(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// times prints a ratio.
func times(v float64) string {
	switch a := math.Abs(v); {
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a < 0.1:
		return strconv.FormatFloat(v, 'f', 3, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// one prints the median, or a dash where nothing was measured.
func one(s measure.Summary, print func(float64) string) string {
	if !s.Measured() {
		return "–"
	}
	return print(s.Median)
}

// all prints the median and between what the values were.
func all(s measure.Summary, print func(float64) string) string {
	if s.N < 2 {
		return one(s, print)
	}
	return fmt.Sprintf("%s (%s–%s)", print(s.Median), print(s.Low), print(s.High))
}
