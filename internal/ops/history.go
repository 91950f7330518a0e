package ops

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/store"
)

// Names of the stores of the history.
const (
	StorePostgres      = "postgres"
	StoreElasticsearch = "elasticsearch"
)

const (
	// settleTime is how long a question waits for what was recorded before it was asked, and settleEvery how often it looks.
	settleTime  = 2 * time.Second
	settleEvery = 50 * time.Millisecond
)

// ElasticsearchError says that Elasticsearch did not answer a question, or refused it.
type ElasticsearchError struct{ Err error }

// Error is what it said.
func (e *ElasticsearchError) Error() string { return e.Err.Error() }

// Unwrap returns what it said.
func (e *ElasticsearchError) Unwrap() error { return e.Err }

// History answers questions to one store of the history.
type History struct {
	db      DB
	elastic *index.Elasticsearch // nil: PostgreSQL's
}

// HistoryInPostgres asks PostgreSQL.
func HistoryInPostgres(db DB) History { return History{db: db} }

// HistoryInElasticsearch asks Elasticsearch, and PostgreSQL for what is still a job.
func HistoryInElasticsearch(db DB, e *index.Elasticsearch) History {
	return History{db: db, elastic: e}
}

// Store names the store.
func (h History) Store() string {
	if h.elastic != nil {
		return StoreElasticsearch
	}
	return StorePostgres
}

// Found is a page of events that a search has found, the last recorded first.
type Found struct {
	Hits []FoundEvent `json:"hits"` // of this page
	// After is what names the next page; 0 when there is none.
	After int64 `json:"after"`
	// Store is postgres or elasticsearch.
	Store string `json:"store"`
	// LagSeconds is for how long the oldest event waits that cannot be found yet; 0 when all can that were recorded before the
	// question was asked.
	LagSeconds float64 `json:"lag_seconds"`
}

// FoundEvent is an event with what became of it.
type FoundEvent struct {
	ID  uuid.UUID `json:"id"`  // of the event
	PK  int64     `json:"pk"`  // of the row in the change log, 0 without one
	Seq int64     `json:"seq"` // the place in the order in which events were recorded
	// Event is without what history.redact leaves out; null when it is not recorded any more.
	Event json.RawMessage `json:"event"`
	// Deliveries are the jobs that exist, and what became of those that were finished long ago.
	Deliveries []Delivery `json:"deliveries"`
}

// Search finds a page of events. It waits a moment for those that were recorded just before and cannot be found yet.
func (h History) Search(ctx context.Context, s index.Search) (Found, error) {
	limit := min(max(s.Limit, 1), maxPage)
	lag, err := h.settle(ctx)
	if err != nil {
		return Found{}, err
	}
	s.Limit = limit + 1
	hits, err := h.hits(ctx, s)
	if err != nil {
		return Found{}, err
	}
	found := Found{Hits: []FoundEvent{}, Store: h.Store(), LagSeconds: lag}
	if len(hits) > limit {
		hits = hits[:limit]
		found.After = hits[limit-1].Seq
	}
	deliveries, err := h.deliveries(ctx, hits)
	if err != nil {
		return Found{}, err
	}
	for _, hit := range hits {
		one := FoundEvent{ID: hit.ID, PK: hit.PK, Seq: hit.Seq, Event: hit.Payload, Deliveries: deliveries[hit.Key]}
		if one.Deliveries == nil {
			one.Deliveries = []Delivery{}
		}
		found.Hits = append(found.Hits, one)
	}
	return found, nil
}

func (h History) hits(ctx context.Context, s index.Search) ([]index.Hit, error) {
	if h.elastic == nil {
		return index.NewPostgres(h.db).Search(ctx, s)
	}
	hits, err := h.elastic.Search(ctx, s)
	if err != nil {
		return nil, &ElasticsearchError{err}
	}
	return hits, nil
}

// settle waits until the store has what was recorded before now. lag is 0 then, else for how long the oldest event waits.
func (h History) settle(ctx context.Context) (lag float64, err error) {
	until, err := store.New().LastEventSeq(ctx, h.db)
	if err != nil {
		return 0, fmt.Errorf("find the event that was recorded last: %w", err)
	}
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for began := time.Now(); ; {
		at, err := store.New().GetHistory(ctx, h.db, h.Store())
		switch {
		case err != nil:
			return 0, fmt.Errorf("how far the history is: %w", err)
		case at.LagSeconds == 0 || at.EventSeq >= until:
			return 0, nil
		case time.Since(began) > settleTime:
			return at.LagSeconds, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}

// deliveries are those of all hits, by event. One that is found several times is River's, else that of weir.outcome.
func (h History) deliveries(ctx context.Context, hits []index.Hit) (map[index.Key][]Delivery, error) {
	all := map[index.Key][]Delivery{}
	if len(hits) == 0 {
		return all, nil
	}
	ids := make([]uuid.UUID, len(hits))
	for i, hit := range hits {
		ids[i] = hit.ID
	}
	live, err := h.liveDeliveries(ctx, ids)
	if err != nil {
		return nil, err
	}
	ended, err := index.NewPostgres(h.db).Deliveries(ctx, ids)
	if err != nil {
		return nil, err
	}
	var elsewhere map[index.Identity][]index.Outcome
	if h.elastic != nil {
		if elsewhere, err = h.elastic.Deliveries(ctx, ids); err != nil {
			return nil, &ElasticsearchError{err}
		}
	}
	for _, hit := range hits {
		known := slices.DeleteFunc(slices.Clone(live[hit.ID]), func(d Delivery) bool { return d.PK != hit.PK })
		known = withOutcomes(known, hit.Key, hit.Payload, ended[hit.Identity()])
		all[hit.Key] = withOutcomes(known, hit.Key, hit.Payload, elsewhere[hit.Identity()])
	}
	return all, nil
}

// liveDeliveries are the jobs of events: deliveries, and changes that have not become events.
func (h History) liveDeliveries(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID][]Delivery, error) {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	slices.Sort(texts)
	rows, err := store.New().JobsOfEvents(ctx, h.db, slices.Compact(texts))
	if err != nil {
		return nil, fmt.Errorf("find the deliveries of %d events: %w", len(ids), err)
	}
	found := map[uuid.UUID][]Delivery{}
	for _, row := range rows {
		if row.Kind == jobs.KindDocument || (row.Kind == jobs.KindChange && row.State == "completed") {
			continue
		}
		d, err := ofJob(store.JobsOfEventRow(row))
		if err != nil {
			return nil, err
		}
		found[d.EventID] = append(found[d.EventID], d)
	}
	return found, nil
}

// withOutcomes adds the deliveries of an event that are not known.
func withOutcomes(known []Delivery, key index.Key, payload json.RawMessage, outcomes []index.Outcome) []Delivery {
	for _, o := range outcomes {
		if has(known, o.DeliveryID) {
			continue
		}
		known = append(known, ofDocument(key, payload, o))
	}
	return known
}

func has(known []Delivery, id uuid.UUID) bool {
	return slices.ContainsFunc(known, func(d Delivery) bool { return d.DeliveryID != nil && *d.DeliveryID == id })
}

// ofDocument is a delivery that has left River's table, as the history has it: without the errors of earlier attempts.
func ofDocument(key index.Key, payload json.RawMessage, o index.Outcome) Delivery {
	d := Delivery{
		Kind: "weir_" + o.ActionType, Observer: o.Observer, Action: o.Action, Queue: o.Endpoint,
		State: stateCancelled, Moved: true, Attempt: o.Attempts,
		AttemptedAt: timeOf(o.StartedAt), FinalizedAt: timeOf(o.FinishedAt),
		EventID: key.ID, PK: key.PK, day: key.Day.Format(time.DateOnly),
		Errors: []AttemptError{}, LastError: jobs.Plain(o.Error),
	}
	d.identify(o.DeliveryID)
	if e, err := event.Parse(payload); err == nil {
		d.EventType, d.Entity, d.EntityID, d.LSN = e.Type, e.EntityType, e.EntityID, e.LSN
	}
	switch o.State {
	case "delivered", "duplicate", "cached":
		d.State = "completed"
	case stateCancelled:
		return d // by a person: no attempt says so
	}
	out := &Outcome{Result: o.State}
	out.DuplicateOf, out.Cached = o.DuplicateOf, o.State == "cached"
	if o.ResponseStatus != nil {
		out.ResponseStatus = int(*o.ResponseStatus)
	}
	if o.DurationMS != nil {
		out.DurationMS = *o.DurationMS
	}
	d.Outcome = out
	return d
}

// Story adds to the reports on an event what only Elasticsearch has: the event, and deliveries that PostgreSQL keeps no more.
func (q Question) Story(ctx context.Context, e *index.Elasticsearch, id uuid.UUID, reports []EventReport) ([]EventReport, error) {
	docs, err := e.Story(ctx, id)
	if err != nil {
		return reports, &ElasticsearchError{err}
	}
	for _, doc := range docs {
		at := slices.IndexFunc(reports, func(r EventReport) bool { return r.PK == doc.PK })
		if at < 0 {
			report := EventReport{ID: id, PK: doc.PK, Observers: []observer.Explanation{}, Deliveries: []Delivery{}}
			at, reports = len(reports), append(reports, report)
		}
		if err := q.addDocument(&reports[at], doc); err != nil {
			return reports, err
		}
	}
	return reports, nil
}

func (q Question) addDocument(r *EventReport, doc index.Document) error {
	if r.Event == nil && len(doc.Payload) > 0 {
		e, err := stored(doc.Payload, doc.PK, r.TxIndex)
		if err != nil {
			return err
		}
		r.Event, r.LSN, r.IngestedAt = doc.Payload, e.LSN, event.Time(doc.IngestedAt)
		if q.Observers != nil {
			r.Explained, r.Observers = true, q.explain(e)
		}
	}
	if o := doc.Outcome; o != nil && (q.Only == "" || q.Only == o.Observer) {
		r.Deliveries = withOutcomes(r.Deliveries, doc.Key, doc.Payload, []index.Outcome{*o})
	}
	return nil
}
