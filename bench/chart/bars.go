package chart

// Bars is a chart of horizontal bars, each of which may have several parts.
type Bars struct {
	Title, Subtitle string
	Unit            string   // of the values, as in "µs"
	Parts           []string // names of the parts, in the order of Bar.Parts
	Bars            []Bar
}

// Bar is one of them.
type Bar struct {
	Label string
	Parts []float64
	// Low and High are what the whole was at least and at most; both 0 draws nothing.
	Low, High float64
	Text      string // behind the bar
	Strong    bool   // the one that the chart is about
}

func (b *Bar) sum() (sum float64) {
	for _, p := range b.Parts {
		sum += max(p, 0)
	}
	return sum
}

const (
	barHeight = 20
	barStep   = 30
)

// SVG draws the chart.
func (b *Bars) SVG() []byte {
	most, labels, texts := 0.0, 0, 0
	for i := range b.Bars {
		bar := &b.Bars[i]
		most = max(most, bar.sum(), bar.High)
		labels = max(labels, len([]rune(bar.Label)))
		texts = max(texts, len([]rune(bar.Text)))
	}
	rows := float64(len(b.Bars)) * barStep
	top := float64(margin+titleSize) + 10 + lineHeight + lineHeight + 4 + 3*lineHeight
	s := newSVG(top+rows+2*lineHeight+margin, b.Title)
	y := s.heading(b.Title, b.Subtitle)
	if len(b.Parts) > 1 {
		y = s.legend(y, b.Parts)
	}
	y += 6
	left := margin + min(letter*float64(labels), 320) + 10
	right := width - margin - letter*float64(texts) - 10
	axis := ticks(most)
	scale := (right - left) / axis[len(axis)-1]
	for _, v := range axis {
		x := left + v*scale
		s.line(x, y, x, y+rows, faint, 1)
		s.text(x, y+rows+lineHeight-3, textSize, "middle", "normal", label(v))
	}
	s.text((left+right)/2, y+rows+2*lineHeight-1, textSize, "middle", "normal", b.Unit)
	for i := range b.Bars {
		bar := &b.Bars[i]
		weight := "normal"
		if bar.Strong {
			weight = "bold"
		}
		middle := y + barStep/2
		s.text(left-8, middle+4, textSize, "end", weight, bar.Label)
		x := left
		for j, p := range bar.Parts {
			w := max(p, 0) * scale
			s.rect(x, middle-barHeight/2, w, barHeight, colour(j))
			x += w
		}
		if bar.High > bar.Low {
			s.line(left+bar.Low*scale, middle, left+bar.High*scale, middle, ink, 1.5)
			for _, end := range []float64{bar.Low, bar.High} {
				s.line(left+end*scale, middle-4, left+end*scale, middle+4, ink, 1.5)
			}
		}
		s.text(max(x, left+bar.High*scale)+8, middle+4, textSize, "start", weight, bar.Text)
		y += barStep
	}
	return s.end()
}
