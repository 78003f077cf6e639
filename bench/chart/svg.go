package chart

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strconv"
)

// Sizes in pixels, and what letters are taken to be wide.
const (
	width      = 820
	margin     = 16
	titleSize  = 17
	textSize   = 12
	letter     = 6.6
	lineHeight = 18
)

// Colours that stay apart for those who do not see all of them.
var palette = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#5b3f8c"}

const (
	ink   = "#222222"
	faint = "#dddddd"
	paper = "#ffffff"
)

// svg is a drawing under way.
type svg struct{ bytes.Buffer }

func newSVG(height float64, title string) *svg {
	s := new(svg)
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %s" width="%d" height="%s" font-family="system-ui, sans-serif" role="img">`+"\n", width, number(height), width, number(height))
	fmt.Fprintf(s, "<title>%s</title>\n", escape(title))
	s.rect(0, 0, width, height, paper)
	return s
}

func (s *svg) end() []byte {
	s.WriteString("</svg>\n")
	return s.Bytes()
}

func (s *svg) rect(x, y, w, h float64, fill string) {
	fmt.Fprintf(s, `<rect x="%s" y="%s" width="%s" height="%s" fill="%s"/>`+"\n", number(x), number(y), number(max(w, 0)), number(max(h, 0)), fill)
}

func (s *svg) line(x1, y1, x2, y2 float64, stroke string, thick float64) {
	fmt.Fprintf(s, `<line x1="%s" y1="%s" x2="%s" y2="%s" stroke="%s" stroke-width="%s"/>`+"\n", number(x1), number(y1), number(x2), number(y2), stroke, number(thick))
}

func (s *svg) circle(x, y, r float64, fill string) {
	fmt.Fprintf(s, `<circle cx="%s" cy="%s" r="%s" fill="%s"/>`+"\n", number(x), number(y), number(r), fill)
}

// text writes a line; anchor is start, middle or end.
func (s *svg) text(x, y, size float64, anchor, weight, words string) {
	fmt.Fprintf(s, `<text x="%s" y="%s" font-size="%s" text-anchor="%s" font-weight="%s" fill="%s">%s</text>`+"\n", number(x), number(y), number(size), anchor, weight, ink, escape(words))
}

// heading writes title and subtitle and returns the y below them.
func (s *svg) heading(title, subtitle string) float64 {
	y := margin + float64(titleSize)
	s.text(margin, y, titleSize, "start", "bold", title)
	if subtitle != "" {
		y += lineHeight
		s.text(margin, y, textSize, "start", "normal", subtitle)
	}
	return y + 10
}

// legend names the colours in a row and returns the y below it.
func (s *svg) legend(y float64, names []string) float64 {
	x := float64(margin)
	for i, name := range names {
		w := 24 + letter*float64(len([]rune(name)))
		if x > margin && x+w > width-margin {
			x, y = margin, y+lineHeight
		}
		s.rect(x, y+3, 12, 12, colour(i))
		s.text(x+17, y+13, textSize, "start", "normal", name)
		x += w + 10
	}
	return y + lineHeight + 4
}

func colour(i int) string { return palette[i%len(palette)] }

func escape(words string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(words)) // a buffer takes everything
	return b.String()
}

// number prints a coordinate; what is no number becomes 0.
func number(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		v = 0
	}
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

// ticks returns about five round values from 0 to at least most.
func ticks(most float64) []float64 {
	if !(most > 0) || math.IsInf(most, 0) {
		return []float64{0, 1}
	}
	raw := most / 5
	step := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, f := range []float64{1, 2, 5, 10} {
		if step*f >= raw {
			step *= f
			break
		}
	}
	var all []float64
	for i := 0; ; i++ {
		v := step * float64(i)
		all = append(all, v)
		if v >= most {
			return all
		}
	}
}

// label prints an axis' value.
func label(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + " M"
	case a >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + " k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
