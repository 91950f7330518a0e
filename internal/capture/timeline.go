package capture

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/event"
)

// timelines is where a cluster's WAL was written: by the primary of now, and by those before it, each up to where it was left.
// A promoted standby begins a new one, and uses positions again that the old primary has used behind that.
type timelines struct {
	system string // the cluster's identifier
	now    int32
	left   []leftTimeline // the oldest first
}

type leftTimeline struct {
	number int32
	end    event.LSN
}

// readTimelines asks a server for the history of its timeline, of which the first has none.
func readTimelines(ctx context.Context, repl *pgconn.PgConn, system string, now int32) (timelines, error) {
	t := timelines{system: system, now: now}
	if now == 1 {
		return t, nil
	}
	history, err := pglogrepl.TimelineHistory(ctx, repl, now)
	if err == nil {
		t.left, err = parseHistory(string(history.Content))
	}
	if err != nil {
		return t, fmt.Errorf("read the history of timeline %d: %w", now, err)
	}
	return t, nil
}

// parseHistory reads a timeline's history: a line for each ancestor, its number, where it was left, and why.
func parseHistory(history string) ([]leftTimeline, error) {
	var left []leftTimeline
	for line := range strings.Lines(history) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		number, err := strconv.ParseInt(fields[0], 10, 32)
		if err != nil {
			continue
		}
		end, err := event.ParseLSN(fields[1])
		if err != nil {
			return nil, err
		}
		left = append(left, leftTimeline{int32(number), end})
	}
	return left, nil
}

// branch is where an ancestor was left, 0 for a timeline that is none.
func (t timelines) branch(ancestor int32) event.LSN {
	for _, l := range t.left {
		if l.number == ancestor {
			return l.end
		}
	}
	return 0
}

// name is the place of a record that begins at a position, among all that the cluster has ever written.
func (t timelines) name(lsn event.LSN) string {
	number := t.now
	for _, l := range t.left {
		if lsn < l.end {
			number = l.number
			break
		}
	}
	if number <= 1 {
		return t.system + "\x00" + lsn.String()
	}
	return t.system + "\x00" + lsn.String() + "\x00timeline " + strconv.Itoa(int(number))
}
