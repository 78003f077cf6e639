package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// drawn parses a drawing and returns its texts. Whatever is drawn is well formed and
// within the drawing.
func drawn(t interface {
	Fatalf(string, ...any)
	Helper()
}, picture []byte) (texts []string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(picture))
	height := math.Inf(1)
	inText := false
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, picture)
		}
		switch token := token.(type) {
		case xml.StartElement:
			inText = token.Name.Local == "text"
			for _, a := range token.Attr {
				v, err := strconv.ParseFloat(a.Value, 64)
				switch name := a.Name.Local; {
				case token.Name.Local == "svg" && name == "height":
					height = v
				case strings.Contains(" x x1 x2 cx ", " "+name+" "):
					if err != nil || v < -1 || v > width+1 {
						t.Fatalf("<%s %s=%q> is outside", token.Name.Local, name, a.Value)
					}
				case strings.Contains(" y y1 y2 cy ", " "+name+" "):
					if err != nil || v < -1 || v > height+1 {
						t.Fatalf("<%s %s=%q> is outside of a height of %v", token.Name.Local, name, a.Value, height)
					}
				case name == "width" || name == "height":
					if err != nil || v < 0 {
						t.Fatalf("<%s %s=%q>", token.Name.Local, name, a.Value)
					}
				}
			}
		case xml.CharData:
			if inText {
				texts = append(texts, string(token))
			}
		case xml.EndElement:
			inText = false
		}
	}
	return texts
}

func TestBarsShowWhatTheyAreGiven(t *testing.T) {
	b := Bars{
		Title: `Cost <of> "a" datagram & more`, Subtitle: "less is better", Unit: "µs",
		Parts: []string{"user", "system"},
		Bars: []Bar{
			{Label: "gateway", Parts: []float64{0.5, 1}, Low: 1.4, High: 1.7, Text: "1.50 (1.40–1.70)", Strong: true},
			{Label: "nothing", Parts: []float64{0, 0}, Text: "0"},
		},
	}
	texts := strings.Join(drawn(t, b.SVG()), "|")
	for _, want := range []string{b.Title, "less is better", "µs", "user", "system", "gateway", "1.50 (1.40–1.70)", "nothing"} {
		if !strings.Contains(texts, want) {
			t.Errorf("%q is not in %q", want, texts)
		}
	}
}

func TestEveryBarIsDrawn(t *testing.T) {
	value := rapid.Float64Range(0, 1e9)
	rapid.Check(t, func(t *rapid.T) {
		b := Bars{Title: rapid.String().Draw(t, "title"), Parts: []string{"a", "b"}}
		for range rapid.IntRange(0, 12).Draw(t, "bars") {
			bar := Bar{Label: rapid.StringN(0, 40, -1).Draw(t, "label"), Parts: []float64{value.Draw(t, "a"), value.Draw(t, "b")}}
			bar.Low, bar.High = bar.sum()*0.9, bar.sum()*1.1
			b.Bars = append(b.Bars, bar)
		}
		picture := b.SVG()
		drawn(t, picture)
		if got, want := strings.Count(string(picture), "<rect"), 1+2+2*len(b.Bars); got != want {
			t.Fatalf("%d rectangles for %d bars", got, len(b.Bars))
		}
	})
}

func TestLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Lines{Title: "t", XUnit: "bytes", YUnit: "µs", LogX: rapid.Bool().Draw(t, "log")}
		points := 0
		for i := range rapid.IntRange(0, 5).Draw(t, "lines") {
			line := Line{Name: "line " + strconv.Itoa(i)}
			for j := range rapid.IntRange(0, 6).Draw(t, "points") {
				line.Points = append(line.Points, Point{X: float64(64 * (j + 1)), Y: rapid.Float64Range(0, 1e6).Draw(t, "y")})
				points++
			}
			l.Lines = append(l.Lines, line)
		}
		picture := l.SVG()
		drawn(t, picture)
		if got := strings.Count(string(picture), "<circle"); got != points {
			t.Fatalf("%d points are drawn of %d", got, points)
		}
	})
}

func TestValuesThatAreNoNumbers(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -5} {
		b := Bars{Title: "t", Bars: []Bar{{Parts: []float64{v}}, {Parts: []float64{1}}}}
		if strings.Contains(string(b.SVG()), "NaN") || strings.Contains(string(b.SVG()), "Inf") {
			t.Errorf("%v is in the drawing", v)
		}
		l := Lines{Title: "t", Lines: []Line{{Name: "x", Points: []Point{{1, v}, {2, 1}}}}}
		if strings.Contains(string(l.SVG()), "NaN") || strings.Contains(string(l.SVG()), "Inf") {
			t.Errorf("%v is in the drawing", v)
		}
	}
}

func TestTicks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.Float64Range(1e-6, 1e12).Draw(t, "most")
		all := ticks(most)
		if len(all) < 3 || len(all) > 8 || all[0] != 0 || all[len(all)-1] < most || all[len(all)-1] > 1.5*most {
			t.Fatalf("ticks to %v: %v", most, all)
		}
	})
}
