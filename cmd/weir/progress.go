package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	barWidth = 24
	barEvery = 100 * time.Millisecond
	// lineEvery is how often a line says how far it is where there is no terminal, and -v asks for it.
	lineEvery = 5 * time.Second
)

// bar tells how far a long work is: on a terminal it rewrites one line, elsewhere there is a line now and then, if -v asks
// for it.
type bar struct {
	app   *app
	noun  string
	began time.Time
	shown time.Time
	width int // of the line that stands there
}

func (a *app) newBar(noun string) *bar { return &bar{app: a, noun: noun, began: time.Now()} }

// show says that so many are done of about so many.
func (b *bar) show(done, total int64) {
	now := time.Now()
	every := barEvery
	if !b.app.interactive {
		every = lineEvery
	}
	if now.Sub(b.shown) < every && done < total {
		return
	}
	b.shown = now
	line := barLine(done, total, b.noun, now.Sub(b.began))
	if !b.app.interactive {
		b.app.verbosef("%s", line)
		return
	}
	width := utf8.RuneCountInString(line)
	_, _ = fmt.Fprint(b.app.stderr, "\r"+line+strings.Repeat(" ", max(0, b.width-width)))
	b.width = width
}

// clear removes the line.
func (b *bar) clear() {
	if b.width > 0 {
		_, _ = fmt.Fprint(b.app.stderr, "\r"+strings.Repeat(" ", b.width)+"\r")
		b.width = 0
	}
}

// barLine is the bar, how many of how many, how many in a second, and how long the rest will take.
func barLine(done, total int64, noun string, took time.Duration) string {
	share := 1.0
	if total > 0 {
		share = min(1, float64(done)/float64(total))
	}
	filled := int(share * barWidth)
	line := fmt.Sprintf("[%s%s] %3.0f %%  %d of %s", strings.Repeat("#", filled), strings.Repeat("-", barWidth-filled), share*100,
		done, count(total, noun))
	if rate := float64(done) / took.Seconds(); done > 0 && took >= time.Second {
		line += fmt.Sprintf("  %.0f/s", rate)
		if rest := time.Duration(float64(total-done) / rate * float64(time.Second)); rest >= time.Second {
			line += "  " + span(rest) + " left"
		}
	}
	return line
}
