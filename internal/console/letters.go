package console

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/ops"
)

// lettersPage is how many dead letters a page lists, and so how many can be chosen at once.
const lettersPage = 50

// letters is the list of dead letters.
type letters struct {
	Stats     ops.DeadLetterStats
	Page      ops.DeadLetterPage
	Filter    letterFilter
	Observers []string // that have dead letters
	Actions   []string
	More      string // the address of the next page, "" without one
	Paged     bool   // this is not the first page
}

// letterFilter is a filter as it stands in an address.
type letterFilter struct{ Observer, Action, Error, Since string }

func filterOf(q url.Values) letterFilter {
	return letterFilter{
		Observer: q.Get("observer"), Action: q.Get("action"), Error: strings.TrimSpace(q.Get("error")),
		Since: strings.TrimSpace(q.Get("since")),
	}
}

// Any says that it does not let everything through.
func (f letterFilter) Any() bool { return f != letterFilter{} }

// values are what the address holds.
func (f letterFilter) values() url.Values {
	v := url.Values{}
	for key, value := range map[string]string{"observer": f.Observer, "action": f.Action, "error": f.Error, "since": f.Since} {
		if value != "" {
			v.Set(key, value)
		}
	}
	return v
}

// Query is values as text.
func (f letterFilter) Query() string { return f.values().Encode() }

func (f letterFilter) filter(now time.Time) (ops.Filter, error) {
	since, err := moment(f.Since, now)
	return ops.Filter{Observer: f.Observer, Action: f.Action, Error: f.Error, Since: since}, err
}

// moment reads a time, as ops.ParseMoment does.
func moment(text string, now time.Time) (time.Time, error) {
	t, err := ops.ParseMoment(text, now)
	if err != nil {
		return t, badRequest("Since when? Expected a duration as in 24h or 7d, or a time as in 2026-01-31T12:00:00Z or 2026-01-31.")
	}
	return t, nil
}

func (p *pages) deadLetters() ops.DeadLetters { return ops.NewDeadLetters(p.opts.DB) }

func (p *pages) letters(ctx context.Context, r *http.Request) (view, error) {
	dead := p.deadLetters()
	q := r.URL.Query()
	l := letters{Filter: filterOf(q), Paged: q.Has("after")}
	filter, err := l.Filter.filter(time.Now())
	if err != nil {
		return view{}, err
	}
	after := int64(0)
	if text := q.Get("after"); text != "" {
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 1 {
			return view{}, badRequest("This is no page of the list.")
		}
	}
	if l.Page, err = dead.List(ctx, filter, after, lettersPage); err != nil {
		return view{}, err
	}
	if l.Stats, err = dead.Stats(ctx); err != nil {
		return view{}, err
	}
	l.Observers, l.Actions = namesIn(l.Stats.Groups)
	if l.Page.After != 0 {
		next := l.Filter.values()
		next.Set("after", strconv.FormatInt(l.Page.After, 10))
		l.More = "?" + next.Encode()
	}
	return view{Title: "Dead letters", Here: "letters", Live: true, Body: l}, nil
}

// namesIn are the names to choose from, each once and sorted.
func namesIn(groups []ops.DeadLetterGroup) (observers, actions []string) {
	for _, g := range groups {
		if g.Observer != "" {
			observers = append(observers, g.Observer)
		}
		if g.Action != "" {
			actions = append(actions, g.Action)
		}
	}
	slices.Sort(observers)
	slices.Sort(actions)
	return slices.Compact(observers), slices.Compact(actions)
}

func (p *pages) letter(ctx context.Context, r *http.Request) (view, error) {
	dead := p.deadLetters()
	id, err := jobID(r.PathValue("id"))
	if err != nil {
		return view{}, err
	}
	letter, err := dead.Show(ctx, id)
	return view{Title: "Dead letter " + strconv.FormatInt(id, 10), Here: "letters", Body: letter}, err
}

func jobID(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 1 {
		return 0, badRequest("This is no dead letter's id: expected a number.")
	}
	return id, nil
}

// confirmation asks before dead letters are removed, or before all that a filter chooses are retried or removed.
type confirmation struct {
	Remove  bool
	All     bool
	Matched int64
	IDs     []int64
	Letters []ops.Delivery // those that were named
	Filter  letterFilter
}

func (p *pages) confirm(ctx context.Context, r *http.Request) (view, error) {
	dead := p.deadLetters()
	q := r.URL.Query()
	c := confirmation{Remove: q.Get("act") != "retry", All: q.Has("all"), Filter: filterOf(q)}
	title := "Retry dead letters?"
	if c.Remove {
		title = "Remove dead letters?"
	}
	if c.All {
		filter, err := c.Filter.filter(time.Now())
		if err != nil {
			return view{}, err
		}
		would, err := dead.RetryAll(ctx, filter, ops.Bulk{DryRun: true})
		c.Matched = int64(would.Matched)
		return view{Title: title, Here: "letters", Body: c}, err
	}
	for _, text := range q["id"] {
		id, err := jobID(text)
		if err != nil {
			return view{}, err
		}
		c.IDs = append(c.IDs, id)
	}
	c.IDs = c.IDs[:min(len(c.IDs), lettersPage)]
	for _, id := range c.IDs {
		one, err := dead.Show(ctx, id)
		if err != nil {
			return view{}, err
		}
		c.Letters = append(c.Letters, one.Delivery)
	}
	c.Matched = int64(len(c.Letters))
	return view{Title: title, Here: "letters", Body: c}, nil
}

func (p *pages) retry(ctx context.Context, r *http.Request, _ string) (string, error) {
	return p.end(ctx, r, "retried", ops.DeadLetters.Retry, ops.DeadLetters.RetryAll)
}

func (p *pages) remove(ctx context.Context, r *http.Request, _ string) (string, error) {
	return p.end(ctx, r, "removed", ops.DeadLetters.Remove, ops.DeadLetters.RemoveAll)
}

type (
	actOnSome func(d ops.DeadLetters, ctx context.Context, ids []int64, dryRun bool) (ops.Act, error)
	actOnAll  func(d ops.DeadLetters, ctx context.Context, filter ops.Filter, bulk ops.Bulk) (ops.Act, error)
)

// end retries or removes the dead letter that the path names, those that were chosen, or all that a filter chooses, and goes
// back to the list.
func (p *pages) end(ctx context.Context, r *http.Request, what string, some actOnSome, all actOnAll) (string, error) {
	dead := p.deadLetters()
	var act ops.Act
	chosen := filterOf(r.PostForm)
	if r.PathValue("id") == "" && r.PostForm.Has("all") {
		filter, err := chosen.filter(time.Now())
		if err != nil {
			return "", err
		}
		act, err = all(dead, ctx, filter, ops.Bulk{})
		if err != nil {
			return "", err
		}
		return result(what, letterFilter{}, act), nil
	}
	ids, err := chosenIDs(r)
	if err != nil {
		return "", err
	}
	if len(ids) == 0 {
		return result("nothing", chosen, act), nil
	}
	act, err = some(dead, ctx, ids, false)
	return result(what, chosen, act), err
}

func chosenIDs(r *http.Request) (ids []int64, err error) {
	texts := r.PostForm["id"]
	if one := r.PathValue("id"); one != "" {
		texts = []string{one}
	}
	for _, text := range texts {
		id, err := jobID(text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func result(what string, filter letterFilter, act ops.Act) string {
	values := filter.values()
	values.Set("changed", strconv.Itoa(act.Changed))
	if n := len(act.Missing); n > 0 {
		values.Set("missing", strconv.Itoa(n))
	}
	return done("/dead-letters", what, values)
}
