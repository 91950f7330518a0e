package console

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/ops"
)

const (
	searchPage = 25 // events
	// excerptLength is how many characters of an event's data are shown, and excerptBefore how many before the first word.
	excerptLength = 220
	excerptBefore = 60
)

// searched is a search with what it found.
type searched struct {
	Query, Since, Entity, Observer, Outcome string
	Outcomes                                []string
	Mistake                                 string // in the query
	Syntax                                  string
	Hits                                    []hit
	Store                                   string
	Lag                                     float64
	Instead                                 bool   // PostgreSQL has answered for Elasticsearch
	More                                    string // the address of the next page
}

type hit struct {
	ID                 uuid.UUID
	Known              bool // the event is recorded
	At                 event.Time
	Type, Entity, Name string
	Excerpt            []segment
	Deliveries         []ops.Delivery
}

// segment is a piece of a text, which a query looks for or not.
type segment struct {
	Text string
	Hit  bool
}

func (p *pages) search(ctx context.Context, r *http.Request) (view, error) {
	q := r.URL.Query()
	found := searched{
		Query: strings.TrimSpace(q.Get("q")), Since: strings.TrimSpace(q.Get("since")), Entity: strings.TrimSpace(q.Get("entity")),
		Observer: strings.TrimSpace(q.Get("observer")), Outcome: q.Get("outcome"), Outcomes: index.Outcomes(), Syntax: index.Syntax,
	}
	v := view{Title: "Search", Here: "search", Query: found.Query}
	s, err := found.search(q)
	var mistake *problem
	switch {
	case errors.As(err, &mistake):
		found.Mistake = mistake.text
	case err != nil:
		return v, err
	default:
		if err := p.find(ctx, s, &found, q); err != nil {
			return v, err
		}
	}
	v.Body = found
	return v, nil
}

// search reads what is asked for. Its error is a *problem.
func (f *searched) search(q url.Values) (index.Search, error) {
	s := index.Search{Entity: f.Entity, Observer: f.Observer, Outcome: f.Outcome, Limit: searchPage}
	var err error
	if s.Query, err = index.ParseQuery(f.Query); err != nil {
		return s, badRequest(err.Error())
	}
	if s.Since, err = moment(f.Since, time.Now()); err != nil {
		return s, err
	}
	if kind, id, one := strings.Cut(f.Entity, "/"); f.Entity != "" && (kind == "" || one && id == "") {
		return s, badRequest("Entity: expected TYPE or TYPE/ID, as in Order or Order/4711.")
	}
	if f.Outcome != "" && !slices.Contains(index.Outcomes(), f.Outcome) {
		return s, badRequest("Outcome: expected one of " + strings.Join(index.Outcomes(), ", ") + ".")
	}
	if text := q.Get("after"); text != "" {
		if s.Before, err = strconv.ParseInt(text, 10, 64); err != nil || s.Before < 1 {
			return s, badRequest("This is no page of the results.")
		}
	}
	return s, nil
}

func (p *pages) find(ctx context.Context, s index.Search, into *searched, q url.Values) error {
	answer, err := p.history(ctx, s, into)
	if err != nil {
		return err
	}
	into.Store, into.Lag = answer.Store, answer.LagSeconds
	for _, one := range answer.Hits {
		into.Hits = append(into.Hits, hitOf(one, s.Query))
	}
	if answer.After != 0 {
		next := url.Values{"after": {strconv.FormatInt(answer.After, 10)}}
		for _, key := range []string{"q", "since", "entity", "observer", "outcome"} {
			if value := q.Get(key); value != "" {
				next.Set(key, value)
			}
		}
		into.More = "?" + next.Encode()
	}
	return nil
}

// history asks Elasticsearch where it has the history, and PostgreSQL where it has not or, if it has the same, does not answer.
func (p *pages) history(ctx context.Context, s index.Search, into *searched) (ops.Found, error) {
	if p.elastic != nil {
		found, err := ops.HistoryInElasticsearch(p.opts.DB, p.elastic).Search(ctx, s)
		var away *ops.ElasticsearchError
		if !errors.As(err, &away) || !p.opts.Config.History.InPostgres() {
			return found, err
		}
		into.Instead = true
	}
	return ops.HistoryInPostgres(p.opts.DB).Search(ctx, s)
}

func hitOf(one ops.FoundEvent, q index.Query) hit {
	h := hit{ID: one.ID, Deliveries: one.Deliveries}
	if e, err := event.Parse(one.Event); err == nil {
		h.Known, h.At, h.Type, h.Entity, h.Name = true, e.Timestamp, string(e.Type), e.EntityType, e.EntityID
		h.Excerpt = segments(q.Excerpt(e.Data, excerptLength, excerptBefore), q)
	}
	return h
}

// Marks around what was looked for. JSON has neither.
const (
	markOn  = "\x00"
	markOff = "\x01"
)

// segments are the pieces of a text in which a query looks for words.
func segments(text string, q index.Query) (all []segment) {
	text = q.Highlight(text, markOn, markOff)
	for text != "" {
		plain, rest, found := strings.Cut(text, markOn)
		if plain != "" {
			all = append(all, segment{plain, false})
		}
		if !found {
			break
		}
		hit, after, _ := strings.Cut(rest, markOff)
		all = append(all, segment{hit, true})
		text = after
	}
	return all
}
