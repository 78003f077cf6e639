package chart

import "math"

// Lines is a chart of lines over one axis. The x values stand where they belong on a
// logarithmic axis if LogX is set.
type Lines struct {
	Title, Subtitle string
	XUnit, YUnit    string
	LogX            bool
	Lines           []Line
}

// Line is one of them: a name, and points from left to right.
type Line struct {
	Name   string
	Points []Point
}

// Point is one of a line's.
type Point struct{ X, Y float64 }

const plotHeight = 300

// SVG draws the chart.
func (l *Lines) SVG() []byte {
	var names []string
	var xs []float64
	least, most, high := math.Inf(1), math.Inf(-1), 0.0
	seen := make(map[float64]bool)
	for _, line := range l.Lines {
		names = append(names, line.Name)
		for _, p := range line.Points {
			least, most, high = min(least, p.X), max(most, p.X), max(high, p.Y)
			if !seen[p.X] {
				seen[p.X] = true
				xs = append(xs, p.X)
			}
		}
	}
	rows := float64(lineHeight) * float64(1+len(names)/2)
	s := newSVG(float64(margin+titleSize)+10+lineHeight+rows+30+plotHeight+2*lineHeight+2*margin, l.Title)
	y := s.heading(l.Title, l.Subtitle)
	y = s.legend(y, names) + 6 + lineHeight
	s.text(margin, y-8, textSize, "start", "normal", l.YUnit)
	left, right, bottom := float64(margin+50), float64(width-2*margin), y+plotHeight
	axis := ticks(high)
	top := axis[len(axis)-1]
	for _, v := range axis {
		at := bottom - v/top*plotHeight
		s.line(left, at, right, at, faint, 1)
		s.text(left-6, at+4, textSize, "end", "normal", label(v))
	}
	place := func(x float64) float64 {
		from, to := least, most
		if l.LogX && least > 0 {
			x, from, to = math.Log(x), math.Log(from), math.Log(to)
		}
		if to <= from {
			return (left + right) / 2
		}
		return left + 20 + (x-from)/(to-from)*(right-left-40)
	}
	for _, x := range xs {
		s.text(place(x), bottom+lineHeight-2, textSize, "middle", "normal", label(x))
	}
	s.text((left+right)/2, bottom+2*lineHeight, textSize, "middle", "normal", l.XUnit)
	for i, line := range l.Lines {
		for j, p := range line.Points {
			x, at := place(p.X), bottom-max(p.Y, 0)/top*plotHeight
			if j > 0 {
				last := line.Points[j-1]
				s.line(place(last.X), bottom-max(last.Y, 0)/top*plotHeight, x, at, colour(i), 2)
			}
			s.circle(x, at, 3.5, colour(i))
		}
	}
	return s.end()
}
