package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/examples/orders"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/ops"
)

// lookEvery is how often the database is asked what became of a delivery.
const lookEvery = 100 * time.Millisecond

// story commits orders and follows each change to the end of its deliveries.
type story struct {
	*stage
	verified int      // webhooks that arrived with valid signatures
	dead     int      // dead letters that were expected and came
	problems []string // what is missing, and what should not have come
	last     uuid.UUID
}

// order is a row of app.orders.
type order struct {
	id       uuid.UUID
	number   int64
	customer string
	total    string
}

func (o order) String() string { return fmt.Sprintf("order %d", o.number) }

// change is a committed change with its row in the change log.
type change struct {
	order order
	id    uuid.UUID // of the event
	pk    int64
	at    time.Time // when the commit returned
}

// want is a delivery that has to come of a change.
type want struct {
	observer, action string
	how              ending

	attempts int // that the receiver saw
}

// ending is how a delivery ends.
type ending int

const (
	arrives  ending = iota // at the receiver, verified
	isLogged               // in the worker's log
	dies                   // after its last attempt, as a dead letter
)

func (w *want) String() string { return w.observer + "/" + w.action }

// whole is the story of --once: every kind of ending, a change that matches nothing and one that never was.
func (s *story) whole(ctx context.Context) error {
	ada, err := s.create(ctx, "Ada Lovelace", "250.00")
	if err != nil {
		return err
	}
	bob, err := s.create(ctx, "Bob", "40.00")
	if err != nil {
		return err
	}
	if err := s.rollBack(ctx); err != nil {
		return err
	}
	if err := s.ship(ctx, ada, true); err != nil {
		return err
	}
	if err := s.ship(ctx, bob, false); err != nil {
		return err
	}
	cleo, err := s.create(ctx, `Cleo "{{ total }}"`, "100.10")
	if err != nil {
		return err
	}
	return s.cancel(ctx, cleo)
}

func (s *story) create(ctx context.Context, customer, total string) (order, error) {
	o := order{customer: customer, total: total}
	c, err := s.commit(ctx, &o, `SELECT o.id, o.number FROM app.create_order($1, $2::numeric) o`, customer, total)
	if err != nil {
		return o, err
	}
	s.screen.line(bold, "commit", o.String(), "created for %s, total %s", customer, total)
	return o, s.follow(ctx, c,
		&want{observer: "order-created", action: "webhook", how: arrives},
		&want{observer: "order-created", action: "log", how: isLogged})
}

// ship is followed by a webhook only for a large order.
func (s *story) ship(ctx context.Context, o order, large bool) error {
	c, err := s.commit(ctx, &o, `SELECT o.id, o.number FROM app.ship_order($1) o`, o.id)
	if err != nil {
		return err
	}
	s.screen.line(bold, "commit", o.String(), "shipped")
	if !large {
		return s.followNothing(ctx, c, "order-shipped")
	}
	return s.follow(ctx, c, &want{observer: "order-shipped", action: "webhook", how: arrives})
}

func (s *story) cancel(ctx context.Context, o order) error {
	c, err := s.commit(ctx, &o, `SELECT o.id, o.number FROM app.cancel_order($1) o`, o.id)
	if err != nil {
		return err
	}
	s.screen.line(bold, "commit", o.String(), "canceled; the warehouse has to know, but answers 500")
	s.last = c.id
	return s.follow(ctx, c, &want{observer: "order-canceled", action: "tell-warehouse", how: dies})
}

// commit changes an order in a transaction and finds the row that it left in the change log.
func (s *story) commit(ctx context.Context, o *order, sql string, args ...any) (change, error) {
	c := change{}
	err := pgx.BeginFunc(ctx, s.conn, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, sql, args...).Scan(&o.id, &o.number); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			SELECT id, pk_entity_change_log FROM core.tb_entity_change_log
			 WHERE object_id = $1 ORDER BY pk_entity_change_log DESC LIMIT 1`, o.id).Scan(&c.id, &c.pk)
	})
	c.order, c.at = *o, time.Now()
	return c, err
}

// rollBack makes a change that is never committed. What would come of it would be found by what follows.
func (s *story) rollBack(ctx context.Context) error {
	tx, err := s.conn.Begin(ctx)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `SELECT app.create_order('Mallory', 1000000)`)
	if err := errors.Join(err, tx.Rollback(ctx)); err != nil {
		return err
	}
	s.screen.line(bold, "rollback", "", "an order of Mallory, total 1000000.00: nothing may come of it")
	return nil
}

// follow shows what comes of a change until each delivery has ended, and notes what is missing.
func (s *story) follow(ctx context.Context, c change, wants ...*want) error {
	pending := map[uuid.UUID]*want{}
	for _, w := range wants {
		pending[event.DeliveryID(c.id, c.pk, w.observer, w.action)] = w
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for len(pending) > 0 {
		select {
		case r := <-s.requests:
			s.arrived(c, pending, r)
		case <-tick.C:
			if err := s.look(ctx, c, pending); err != nil {
				return err
			}
		case <-s.ended:
			return s.workerEnded()
		case <-ctx.Done():
			if !errors.Is(context.Cause(ctx), context.Canceled) { // the time limit, not somebody who had seen enough
				for id, w := range pending {
					s.missing(c, id, w, "it has not ended")
				}
			}
			return context.Cause(ctx)
		}
	}
	return nil
}

// arrived shows a request that the receiver got.
func (s *story) arrived(c change, pending map[uuid.UUID]*want, r orders.Request) {
	id, _ := uuid.Parse(r.ID) // the zero id is nobody's
	w := pending[id]
	if w == nil {
		if r.Accepted() { // a repeat of what ended before is allowed, and was dropped
			s.problem("nobody expected the webhook %s (delivery %s)", r.Path, r.ID)
		}
		return
	}
	w.attempts++
	verdict := "both signatures valid"
	if r.Err != nil {
		verdict = r.Err.Error()
	}
	color := green
	if !r.Accepted() {
		color = yellow
		verdict += fmt.Sprintf(", attempt %d of %d", w.attempts, s.cfg.Observers[w.observer].Retry.MaxAttempts)
	}
	s.screen.line(color, "webhook", c.order.String(), "%-29s  %d, %s, %d ms after the commit",
		w, r.Status, verdict, time.Since(c.at).Milliseconds())
	if w.attempts == 1 {
		s.screen.detail(gist(r.Body))
	}
	if r.Accepted() && w.how == arrives {
		s.verified++
		delete(pending, id)
	}
}

// look asks Weir how the deliveries are doing that the receiver cannot tell of: logged, dead, or done without it. The
// receiver speaks to us before it answers: what Weir has an answer to, we have heard of.
func (s *story) look(ctx context.Context, c change, pending map[uuid.UUID]*want) error {
	deliveries, err := s.deliveries(ctx, c)
	if err != nil {
		return err
	}
	for _, d := range deliveries {
		if d.DeliveryID == nil || pending[*d.DeliveryID] == nil {
			continue
		}
		w := pending[*d.DeliveryID]
		switch {
		case d.DeadLetter && w.how == dies:
			s.dead++
			s.screen.line(red, "dead", c.order.String(), "%-29s  after %d attempts: %s", w, d.Attempt, d.LastError)
		case d.DeadLetter:
			s.missing(c, *d.DeliveryID, w, "it is a dead letter: "+d.LastError)
		case d.State != "completed":
			continue
		case w.how == isLogged:
			s.screen.line(green, "log", c.order.String(), "%-29s  a line in the worker's log", w)
		case w.how == arrives:
			s.missing(c, *d.DeliveryID, w, "Weir was told that it arrived, and the receiver knows nothing of it")
		case w.how == dies:
			s.missing(c, *d.DeliveryID, w, "it should have become a dead letter, and was delivered")
		}
		delete(pending, *d.DeliveryID)
	}
	return nil
}

// deliveries are a change's, none before it has been ingested.
func (s *story) deliveries(ctx context.Context, c change) ([]ops.Delivery, error) {
	reports, err := s.reports(ctx, c)
	if err != nil || len(reports) == 0 {
		return nil, err
	}
	return reports[0].Deliveries, nil
}

func (s *story) reports(ctx context.Context, c change) ([]ops.EventReport, error) {
	reports, err := ops.DebugEvent(ctx, s.conn, c.id, s.ask)
	if errors.Is(err, ops.ErrNoEvent) {
		return nil, nil
	}
	return reports, err
}

// followNothing waits until a change has been ingested and shows why an observer did not match.
func (s *story) followNothing(ctx context.Context, c change, observer string) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		reports, err := s.reports(ctx, c)
		if err != nil {
			return err
		}
		if len(reports) > 0 {
			s.explain(c, reports[0], observer)
			return nil
		}
		select {
		case r := <-s.requests:
			s.arrived(c, nil, r)
		case <-tick.C:
		case <-s.ended:
			return s.workerEnded()
		case <-ctx.Done():
			if !errors.Is(context.Cause(ctx), context.Canceled) {
				s.problem("%s: its change (event %s) was not captured", c.order, c.id)
			}
			return context.Cause(ctx)
		}
	}
}

func (s *story) explain(c change, report ops.EventReport, observer string) {
	for _, d := range report.Deliveries {
		s.problem("%s: nobody expected a delivery of %s/%s", c.order, d.Observer, d.Action)
	}
	for _, x := range report.Observers {
		if x.Observer == observer {
			s.screen.line(dim, "no match", c.order.String(), "%s: %s", observer, strings.TrimSpace(x.Reason))
		}
	}
}

func (s *story) missing(c change, id uuid.UUID, w *want, why string) {
	s.problem("%s of %s (delivery %s, event %s) is missing: %s", w, c.order, id, c.id, why)
}

func (s *story) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.problems = append(s.problems, text)
	s.screen.line(red, "problem", "", "%s", text)
}
