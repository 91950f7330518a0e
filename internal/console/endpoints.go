package console

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/setting"
)

// endpointRow is an endpoint with what is in its queue.
type endpointRow struct {
	ops.Breaker
	Badge                        badge
	Running, Available, Retrying int64
	Waiting                      int64 // for a time to come, or for their turn
	Ours                         bool  // a queue of Weir's own, which has no breaker
}

// endpointRows joins breakers with queues. A queue of an endpoint that nobody knows any more has a row of its own.
func endpointRows(b ops.Breakers, queues []ops.Queue) []endpointRow {
	var rows []endpointRow
	place := map[string]int{}
	for i, one := range b.Endpoints {
		rows = append(rows, endpointRow{Breaker: one, Badge: breakerBadge(one.State)})
		place[jobs.QueueName(one.Endpoint)] = i
	}
	for _, q := range queues {
		i, ok := place[q.Queue]
		if !ok {
			i = len(rows)
			place[q.Queue] = i
			rows = append(rows, endpointRow{Breaker: ops.Breaker{Endpoint: q.Queue}, Badge: badge{"calm", "–"}, Ours: true})
		}
		switch q.State {
		case "running":
			rows[i].Running += q.Jobs
		case "available":
			rows[i].Available += q.Jobs
		case "retryable":
			rows[i].Retrying += q.Jobs
		default:
			rows[i].Waiting += q.Jobs
		}
	}
	rank := map[string]int{"open": 0, "half-open": 1}
	slices.SortStableFunc(rows, func(a, b endpointRow) int {
		at := func(r endpointRow) int {
			if n, ok := rank[r.State]; ok {
				return n
			}
			return len(rank)
		}
		return at(a) - at(b)
	})
	return rows
}

func breakerBadge(state string) badge {
	switch state {
	case "open":
		return badge{"bad", state}
	case "half-open":
		return badge{"warn", state}
	default:
		return badge{"good", state}
	}
}

// UntilText is until when the breaker stays open, "" for one that is not.
func (r endpointRow) UntilText(now time.Time) string {
	switch until := time.Time(r.Until); {
	case r.State != "open":
		return ""
	case until.IsZero():
		return "until somebody closes it"
	case until.Before(now):
		return "until a worker probes it"
	default:
		return "for " + span(max(time.Second, until.Sub(now).Round(time.Second)))
	}
}

// openFor are the times for which a person may open a breaker. "" is until somebody closes it.
var openFor = []string{"", "10m", "30m", "2h", "12h"}

func (p *pages) endpoints(ctx context.Context, _ *http.Request) (view, error) {
	breakers, err := ops.ReadBreakers(ctx, p.opts.DB)
	if err != nil {
		return view{}, err
	}
	queues, err := ops.ReadQueues(ctx, p.opts.DB)
	if err != nil {
		return view{}, err
	}
	return view{
		Title: "Endpoints", Here: "endpoints", Live: true, Now: time.Time(breakers.Time),
		Body: struct {
			Endpoints []endpointRow
			Gone      []ops.GoneAction
			OpenFor   []string
		}{endpointRows(breakers, queues), breakers.Gone, openFor},
	}, nil
}

func (p *pages) openBreaker(ctx context.Context, r *http.Request, by string) (string, error) {
	how := ops.ByHand{Reason: ops.Short(r.PostForm.Get("reason"), 200), By: by}
	if text := r.PostForm.Get("for"); text != "" {
		d, err := setting.ParseDuration(text)
		if err != nil || d <= 0 {
			return "", badRequest("Open for how long? Expected a duration as in 10m or 2h.")
		}
		how.For = d.Std()
	}
	_, err := ops.OpenBreaker(ctx, p.opts.DB, r.PostForm.Get("endpoint"), how)
	return done("/endpoints", "opened", nil), err
}

func (p *pages) closeBreaker(ctx context.Context, r *http.Request, by string) (string, error) {
	changed, err := ops.CloseBreaker(ctx, p.opts.DB, r.PostForm.Get("endpoint"), ops.ByHand{By: by})
	if len(changed.Gone) > 0 {
		return done("/endpoints", "revived", nil), err
	}
	return done("/endpoints", "closed", nil), err
}
