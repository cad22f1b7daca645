package bench

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// plot is a diagram with logarithmic axes.
type plot struct {
	title, x, y string
	lines       []line
}

// line is a line of a plot. An empty color means a dashed gray line.
type line struct {
	name, color string
	points      []point
}

type point struct{ x, y float64 }

// colors can be distinguished by readers with color blindness (Okabe and Ito, 2008, with brown instead of yellow).
var colors = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#7f3b08"}

// The layout of a plot, in pixels.
const (
	plotWidth, plotHeight = 820, 440
	left, top             = 70, 40 // the position of the area of the lines
	areaWidth, areaHeight = 500, 340
	labelHeight           = 16
)

// svg returns the plot as an SVG image.
func (p plot) svg() string {
	low, high := point{math.Inf(1), math.Inf(1)}, point{}
	for _, l := range p.lines {
		for _, at := range l.points {
			low, high = point{min(low.x, at.x), min(low.y, at.y)}, point{max(high.x, at.x), max(high.y, at.y)}
		}
	}
	// Extend the y axis to powers of 10.
	low.y, high.y = math.Pow(10, math.Floor(math.Log10(low.y))), math.Pow(10, math.Ceil(math.Log10(high.y)))
	place := func(at point) point {
		return point{
			left + areaWidth*math.Log(at.x/low.x)/math.Log(high.x/low.x),
			top + areaHeight*(1-math.Log(at.y/low.y)/math.Log(high.y/low.y)),
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", plotWidth, plotHeight)
	text := func(x, y float64, anchor, color, content string) {
		fmt.Fprintf(&out, `<text x="%.0f" y="%.0f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, color, html.EscapeString(content))
	}
	grid := func(a, b point) {
		fmt.Fprintf(&out, `<path d="M%.0f %.0fL%.0f %.0f" stroke="#dddddd"/>`+"\n", a.x, a.y, b.x, b.y)
	}
	const black = "#000000"
	fmt.Fprintf(&out, `<text x="%d" y="20" font-size="15">%s</text>`+"\n", left, html.EscapeString(p.title))
	for x := low.x; x < high.x*1.01; x *= 10 {
		at := place(point{x, low.y})
		grid(at, point{at.x, top})
		text(at.x, at.y+18, "middle", black, power(x))
	}
	text(left+areaWidth/2, top+areaHeight+38, "middle", black, p.x)
	for y := low.y; y < high.y*1.01; y *= 10 {
		at := place(point{low.x, y})
		grid(at, point{left + areaWidth, at.y})
		text(at.x-8, at.y+4, "end", black, fmt.Sprintf("%g", y))
	}
	fmt.Fprintf(&out, `<text transform="translate(20 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n", top+areaHeight/2, html.EscapeString(p.y))
	type label struct {
		end, at point
		line
	}
	var labels []label
	for _, l := range p.lines {
		var path []string
		var end point
		for _, at := range l.points {
			end = place(at)
			path = append(path, fmt.Sprintf("%.1f %.1f", end.x, end.y))
		}
		color, dash := l.color, ""
		if color == "" {
			color, dash = "#888888", ` stroke-dasharray="5 4"`
		}
		fmt.Fprintf(&out, `<path d="M%s" fill="none" stroke="%s" stroke-width="2"%s/>`+"\n", strings.Join(path, "L"), color, dash)
		labels = append(labels, label{end, point{left + areaWidth + 24, end.y}, line{l.name, color, nil}})
	}
	// Move the labels that would overlap down, and then the labels below the area up.
	slices.SortFunc(labels, func(a, b label) int { return cmp.Compare(a.at.y, b.at.y) })
	for i := 1; i < len(labels); i++ {
		labels[i].at.y = max(labels[i].at.y, labels[i-1].at.y+labelHeight)
	}
	for i := len(labels) - 1; i >= 0; i-- {
		lowest := float64(top + areaHeight)
		if i < len(labels)-1 {
			lowest = labels[i+1].at.y - labelHeight
		}
		labels[i].at.y = min(labels[i].at.y, lowest)
	}
	for _, l := range labels {
		fmt.Fprintf(&out, `<path d="M%.0f %.0fL%.0f %.0f" stroke="%s" stroke-width="0.5"/>`+"\n", l.end.x+2, l.end.y, l.at.x-4, l.at.y, l.color)
		text(l.at.x, l.at.y+4, "start", l.color, l.name)
	}
	out.WriteString("</svg>\n")
	return out.String()
}

// power returns a power of 10 as text, such as 10⁴.
func power(x float64) string {
	digits := []rune("⁰¹²³⁴⁵⁶⁷⁸⁹")
	return "10" + string(digits[int(math.Round(math.Log10(x)))%10])
}
