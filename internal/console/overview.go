package console

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/fraiseql/weir/internal/ops"
)

// overview is the first page.
type overview struct {
	Status    *ops.Status
	Stream    badge
	Notes     []note
	Verdict   string
	Summary   string // for those who listen
	Behind    string // how long, in words
	Dead      int64
	Waiting   int64
	Running   int64
	Chart     chart
	Endpoints []endpointRow
	Workers   []workerRow
}

type workerRow struct {
	ops.Worker
	Badge badge
}

func (p *pages) overview(ctx context.Context, r *http.Request) (view, error) {
	status, err := ops.ReadStatus(ctx, p.opts.DB, p.source, p.opts.Config.Source.Config)
	if err != nil {
		return view{}, err
	}
	status.UseHistory(p.opts.Config.History)
	breakers, err := ops.ReadBreakers(ctx, p.opts.DB)
	if err != nil {
		return view{}, err
	}
	over := rangeOf(r.URL.Query().Get("range"))
	throughput, err := p.recent.throughput(ctx, p.opts.DB, over)
	if err != nil {
		return view{}, err
	}
	o := overview{
		Status: status, Stream: streamBadge(status), Notes: notesOf(status), Dead: deadLetters(status),
		Chart: drawChart(throughput, over, r.URL.Query().Get("observer")), Endpoints: endpointRows(breakers, status.Queues),
	}
	for _, q := range status.Queues {
		if q.State == "running" {
			o.Running += q.Jobs
		} else {
			o.Waiting += q.Jobs
		}
	}
	for _, w := range status.Workers {
		o.Workers = append(o.Workers, workerRow{w, workerBadge(w)})
	}
	o.judge()
	switch lag := status.Stream.LagSeconds; {
	case lag == nil:
		o.Behind = "for how long is not known"
	case *lag == 0:
		o.Behind = "nothing to catch up"
	default:
		o.Behind = span(time.Duration(*lag*float64(time.Second))) + " late"
	}
	return view{Title: "Overview", Here: "overview", Live: true, Now: time.Time(status.Time), Body: o}, nil
}

// judge says in a sentence how things are. What is read aloud leaves out what changes all the time.
func (o *overview) judge() {
	bad := 0
	for _, n := range o.Notes {
		if n.Level == "bad" {
			bad++
		}
	}
	switch {
	case len(o.Notes) == 0:
		o.Verdict = "Everything flows"
	case bad == 0:
		o.Verdict = count(len(o.Notes), "thing") + " to know"
	case len(o.Notes) == 1:
		o.Verdict = "1 thing needs attention"
	default:
		o.Verdict = count(len(o.Notes), "thing") + " need attention"
	}
	o.Summary = fmt.Sprintf("%s. Stream: %s. %s.", o.Verdict, o.Stream.Text, count(o.Dead, "dead letter"))
}

func streamBadge(s *ops.Status) badge {
	hanging := slices.ContainsFunc(s.Workers, func(w ops.Worker) bool { return w.Role == ops.RoleHanging })
	switch s.Stream.State {
	case ops.StreamStreaming:
		if !s.Stream.ReaderKnown {
			return badge{"bad", "read by a stranger"}
		}
		if hanging {
			return badge{"bad", "hanging"}
		}
		return badge{"good", "streaming"}
	case ops.StreamNotStarted:
		return badge{"warn", "not started"}
	case ops.StreamRecovering:
		return badge{"warn", "recovering"}
	case ops.StreamPaused:
		return badge{"warn", "paused"}
	case ops.StreamNoSlot:
		return badge{"bad", "no slot"}
	default:
		return badge{"bad", string(s.Stream.State)}
	}
}

func workerBadge(w ops.Worker) badge {
	switch w.Role {
	case ops.RoleReader:
		return badge{"good", "reads the stream"}
	case ops.RoleHanging, ops.RoleDead:
		return badge{"bad", string(w.Role)}
	default:
		return badge{"calm", string(w.Role)}
	}
}
