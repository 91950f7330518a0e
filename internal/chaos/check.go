package chaos

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
)

// Difference is one thing that is not as was promised.
type Difference struct {
	// Name says what kind of difference it is, as in delivery-missing.
	Name string `json:"name"`
	// About says everything about it.
	About string `json:"about"`
}

// The names of differences.
const (
	CommitLost         = "commit-lost"         // a transaction that was acknowledged is not, or not whole, in the change log
	RollbackKept       = "rollback-kept"       // one that was rolled back is
	EventMissing       = "event-missing"       // a row that is no event
	EventDoubled       = "event-doubled"       //
	EventUnwanted      = "event-unwanted"      // an event without a row that can be one
	EventChanged       = "event-changed"       // another than its row
	EventDisorder      = "event-disorder"      // events of an entity are not in commit order
	BadRowLost         = "bad-row-lost"        // a row that cannot be an event, without its dead letter
	BadRowDoubled      = "bad-row-doubled"     //
	BadRowUnwanted     = "bad-row-unwanted"    // such a dead letter of a row that is fine
	DeliveryMissing    = "delivery-missing"    // neither a job nor an outcome
	DeliveryDoubled    = "delivery-doubled"    // two
	DeliveryUnwanted   = "delivery-unwanted"   // one that nothing leads to
	DeliveryUnfinished = "delivery-unfinished" //
	DeadUnexpected     = "dead-unexpected"     // a dead letter for no reason that the run has given
	DeadMissing        = "dead-missing"        // delivered, though the receiver refuses it
	CallMissing        = "call-missing"        // said to be delivered, and the receiver does not know of it
	CallUnwanted       = "call-unwanted"       // the receiver has got what nobody had to send
	OrderBroken        = "order-broken"        // the receiver has got an entity's events in another order
	DedupWrong         = "dedup-wrong"         // dropped for a delivery that does not stand for it, or not dropped
	EffectMissing      = "effect-missing"      // of a database action
	EffectDoubled      = "effect-doubled"      //
	EffectUnwanted     = "effect-unwanted"     //
	DocumentMissing    = "document-missing"    // of the history
	DocumentDoubled    = "document-doubled"    //
	DocumentUnwanted   = "document-unwanted"   //
	DocumentStale      = "document-stale"      // it tells of another outcome
)

// identity names a row, and its event.
type identity struct {
	id uuid.UUID
	pk int64
}

// checker compares evidence. It keeps the differences in the order in which a change goes its way.
type checker struct {
	evidence
	rowOf  map[identity]*logRow
	wants  map[uuid.UUID]*wanted
	ended  map[uuid.UUID]*jobRow // deliveries
	called map[uuid.UUID]int     // calls that were answered with success
	found  []Difference
}

// check compares, and returns every difference.
func (e *evidence) check() []Difference {
	c := &checker{
		evidence: *e, rowOf: map[identity]*logRow{}, wants: map[uuid.UUID]*wanted{}, ended: map[uuid.UUID]*jobRow{},
		called: map[uuid.UUID]int{},
	}
	c.expect()
	c.commits()
	c.ingest()
	c.disorder()
	c.badRows()
	c.deliveries()
	c.received()
	c.order()
	c.dedup()
	c.results()
	c.history("PostgreSQL", c.documents)
	if c.hasElastic {
		c.history("Elasticsearch", c.elastic)
	}
	return c.found
}

func (c *checker) differ(name, about string, args ...any) {
	c.found = append(c.found, Difference{Name: name, About: fmt.Sprintf(about, args...)})
}

// expect works out what there must be.
func (c *checker) expect() {
	for i := range c.rows {
		r := &c.rows[i]
		c.rowOf[identity{r.ID, r.PK}] = r
		if err := r.read(); err != nil {
			c.differ(EventChanged, "%v", err)
		}
		for _, w := range r.deliveries() {
			c.wants[w.id] = w
		}
	}
	for _, one := range c.calls {
		if one.Status/100 == 2 {
			c.called[one.Delivery]++
		}
	}
}

// commits guards the truth: what the clients know must be in the change log.
func (c *checker) commits() {
	left := map[string]int{}
	for i := range c.rows {
		r := &c.rows[i]
		left[r.Tx]++
		if r.after.Aborted || r.before.Aborted {
			c.differ(RollbackKept, "%s is in the change log, and was rolled back", r)
		}
	}
	for _, s := range c.sent {
		switch got := left[s.tag]; {
		case s.fate == committed && got != s.rows:
			c.differ(CommitLost, "transaction %s was committed with %d rows, the change log has %d", s.tag, s.rows, got)
		case s.fate == aborted && got != 0:
			c.differ(RollbackKept, "transaction %s was not committed, the change log has %d rows of it", s.tag, got)
		}
	}
}

// ingest compares the rows with the events.
func (c *checker) ingest() {
	events := map[identity]int{}
	for i := range c.events {
		e := &c.events[i]
		key := identity{e.ID, e.PK}
		events[key]++
		r := c.rowOf[key]
		switch {
		case r == nil:
			c.differ(EventUnwanted, "event %s has no row (pk %d): %+v", e.ID, e.PK, *e)
		case r.eventType() == "":
			c.differ(EventUnwanted, "event %s is of a row that can be none: %s", e.ID, r)
		case events[key] == 2:
			c.differ(EventDoubled, "event %s is there twice: %s", e.ID, r)
		case e.Type != r.eventType() || e.Kind != r.Kind || e.Entity != text(r.Entity) || e.Data != r.image():
			c.differ(EventChanged, "event %+v is not what its row is: %s", *e, r)
		}
	}
	for i := range c.rows {
		r := &c.rows[i]
		if r.eventType() != "" && events[identity{r.ID, r.PK}] == 0 {
			c.differ(EventMissing, "there is no event of %s", r)
		}
	}
}

// disorder compares the positions of an entity's events with its versions.
func (c *checker) disorder() {
	type at struct {
		row *logRow
		pos event.Position
	}
	of := map[string][]at{}
	for i := range c.events {
		e := &c.events[i]
		r := c.rowOf[identity{e.ID, e.PK}]
		lsn, err := event.ParseLSN(e.LSN)
		if r != nil && err == nil {
			of[e.Entity] = append(of[e.Entity], at{r, event.Position{LSN: lsn, Index: e.Index}})
		}
	}
	for _, all := range of {
		slices.SortFunc(all, func(a, b at) int { return a.pos.Compare(b.pos) })
		for i := 1; i < len(all); i++ {
			if all[i-1].row.version() >= all[i].row.version() {
				c.differ(EventDisorder, "the event at %s is of %s, and the one before it at %s of %s",
					all[i].pos, all[i].row, all[i-1].pos, all[i-1].row)
			}
		}
	}
}

// version is the entity's after the change.
func (r *logRow) version() int64 {
	if r.eventType() == "DELETE" {
		return r.before.N
	}
	return r.after.N
}

// badRows compares the rows that cannot be events with their dead letters.
func (c *checker) badRows() {
	letters := map[int64]int{}
	for i := range c.jobs {
		j := &c.jobs[i]
		if j.Kind != "weir_change" {
			continue
		}
		r := c.rowOf[identity{j.EventID, j.PK}]
		if r == nil || r.eventType() != "" {
			c.differ(BadRowUnwanted, "job %d says that a row cannot be an event, and it can: %+v, %v", j.JobID, *j, r)
			continue
		}
		letters[j.PK]++
		if letters[j.PK] == 2 {
			c.differ(BadRowDoubled, "job %d is another one of %s", j.JobID, r)
		}
		if j.Dead == "" {
			c.differ(DeliveryUnfinished, "job %d of %s is no dead letter, but %s", j.JobID, r, j.State)
		}
	}
	for i := range c.rows {
		r := &c.rows[i]
		if r.eventType() == "" && letters[r.PK] == 0 {
			c.differ(BadRowLost, "there is no dead letter of %s", r)
		}
	}
}

// deliveries compares what there must be with jobs and outcomes.
func (c *checker) deliveries() {
	for _, all := range [][]jobRow{c.jobs, c.outcomes} {
		for i := range all {
			if j := &all[i]; j.Kind != "weir_change" {
				c.delivery(j)
			}
		}
	}
	for i := range c.rows { // not over the map: the first difference is that of the first row
		for _, w := range c.rows[i].deliveries() {
			if c.ended[w.id] == nil {
				c.differ(DeliveryMissing, "there is neither a job nor an outcome: %s", w)
			}
		}
	}
}

func (c *checker) delivery(j *jobRow) {
	w := c.wants[j.Delivery]
	if w == nil {
		c.differ(DeliveryUnwanted, "nothing leads to %s, row: %v", j, c.rowOf[identity{j.EventID, j.PK}])
		return
	}
	if other := c.ended[j.Delivery]; other != nil {
		c.differ(DeliveryDoubled, "%s is both %s and %s", w, other, j)
		return
	}
	c.ended[j.Delivery] = j
	switch state := j.outcome(); {
	case state == "":
		c.differ(DeliveryUnfinished, "%s: %s", w, j)
	case state == "dead" && !w.poison && j.Dead != "interrupted":
		c.differ(DeadUnexpected, "%s: %s", w, j)
	case state == "delivered" && w.poison:
		c.differ(DeadMissing, "%s: %s", w, j)
	}
}

// String is everything about a job or an outcome.
func (j *jobRow) String() string {
	what := "an outcome"
	if j.JobID != 0 {
		what = fmt.Sprintf("job %d", j.JobID)
	}
	return fmt.Sprintf("%s (%s %s/%s of event %s, pk %d: state %s, result %s, dead letter %q)",
		what, j.Kind, j.Observer, j.Action, j.EventID, j.PK, j.State, j.Result, j.Dead)
}

// outcome is how the delivery ended, in the words of the history; "" while it has not.
func (j *jobRow) outcome() string {
	switch {
	case j.Dead != "" || j.State == "discarded":
		return "dead"
	case (j.State == "completed" || j.State == "delivered") && j.DuplicateOf != nil:
		return "duplicate"
	case j.State == "completed":
		return "delivered"
	case j.JobID == 0 || j.State == "cancelled":
		return j.State
	}
	return ""
}
