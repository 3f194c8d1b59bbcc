package main

import (
	"bytes"
	"encoding/xml"
	"fmt"

	"github.com/katadirect/katadirect/test/bench/figures"
)

// The drawing: for each figure a row with two bars, the floor's and ours, to one scale of its own. Sizes are in
// pixels.
const (
	svgWidth  = 800
	svgRow    = 64
	svgMargin = 16
	svgBars   = 110 // where bars begin
	svgLength = 300 // of the longest bar of a row
	svgHeight = 16  // of a bar
)

const (
	floorColour  = "#b8c0cc"
	oursColour   = "#2f6fb3"
	missedColour = "#c0392b"
)

// drawing draws the report as an SVG for the documents.
func drawing(r *Report) []byte {
	var b bytes.Buffer
	height := svgRow*len(r.Figures) + 2*svgMargin + 20
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n",
		svgWidth, height, svgWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", svgWidth, height)
	for i, f := range r.Figures {
		drawFigure(&b, f, svgMargin+i*svgRow)
	}
	drawLegend(&b, height-svgMargin)
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func drawFigure(b *bytes.Buffer, f Figure, y int) {
	scale := max(f.Value, f.Floor)
	if scale <= 0 {
		scale = 1
	}
	text(b, svgMargin, y+svgHeight+6, "bold", f.Name)
	text(b, svgMargin, y+svgHeight+24, "normal", f.Accel)
	colour := oursColour
	if !f.Met {
		colour = missedColour
	}
	note := fmt.Sprintf("%s, %.2f × floor", quantity(f.Value, f.Unit), f.Ratio)
	if f.Target != figures.NoTarget {
		note += ", target: " + f.Target
	}
	bar(b, y+4, f.Value/scale, colour, note)
	bar(b, y+8+svgHeight, f.Floor/scale, floorColour, quantity(f.Floor, f.Unit))
}

// bar draws a bar of a share of the full length, and a note behind it.
func bar(b *bytes.Buffer, y int, share float64, colour, note string) {
	length := share * svgLength
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`+"\n", svgBars, y, length, svgHeight, colour)
	text(b, svgBars+int(length)+8, y+svgHeight-3, "normal", note)
}

func drawLegend(b *bytes.Buffer, y int) {
	for _, entry := range []struct {
		x            int
		colour, text string
	}{
		{svgBars, oursColour, "katadirect"},
		{svgBars + 110, floorColour, "floor: the same job without it"},
		{svgBars + 330, missedColour, "target missed"},
	} {
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="12" height="12" rx="2" fill="%s"/>`+"\n", entry.x, y-10, entry.colour)
		text(b, entry.x+18, y, "normal", entry.text)
	}
}

func text(b *bytes.Buffer, x, y int, weight, s string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="%s" fill="#222222">`, x, y, weight)
	_ = xml.EscapeText(b, []byte(s)) // a buffer takes everything
	b.WriteString("</text>\n")
}
