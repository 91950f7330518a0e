package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	settlePoll = 500 * time.Millisecond
	// lookAgain is for how long differences of the history are looked at again: what comes late is found by a sweep.
	lookAgain  = 2 * time.Minute
	lookPause  = 5 * time.Second
	answerTime = 30 * time.Second
)

// errNotSettled says that something did not come to its end.
var errNotSettled = errors.New("did not happen in time")

// await polls with connections of its own, which a server that has just been mended may lose.
func (h *harness) await(
	ctx context.Context, limit time.Duration, what string, is func(context.Context, *pgx.Conn) (bool, error),
) error {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	ask := func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, h.url); err != nil {
				return false, err
			}
		}
		return is(ctx, conn)
	}
	for deadline := time.Now().Add(limit); ; {
		done, err := ask()
		switch {
		case done && err == nil:
			return nil
		case time.Now().After(deadline):
			return errors.Join(fmt.Errorf("%s: %w (%s)", what, errNotSettled, limit), err)
		}
		select {
		case <-time.After(settlePoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// settle waits until everything that is under way has ended, and compares.
func (h *harness) settle(ctx context.Context) ([]Difference, error) {
	h.tell("mended; waiting for what is under way")
	var last uuid.UUID
	steps := []struct {
		what string
		is   func(context.Context, *pgx.Conn) (bool, error)
	}{
		{"the server for the last change", func(ctx context.Context, conn *pgx.Conn) (_ bool, err error) {
			last, err = marker(ctx, conn)
			return err == nil, err
		}},
		{"the last change becomes an event", func(ctx context.Context, conn *pgx.Conn) (is bool, err error) {
			err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM weir.event WHERE id = $1)`, last).Scan(&is)
			return is, err
		}},
		{"all deliveries have ended", func(ctx context.Context, conn *pgx.Conn) (is bool, err error) {
			err = conn.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM weir.river_job WHERE kind <> 'weir_housekeeping'
				AND state IN ('available', 'pending', 'retryable', 'running', 'scheduled'))`).Scan(&is)
			return is, err
		}},
		{"the slot is confirmed", func(ctx context.Context, conn *pgx.Conn) (is bool, err error) {
			err = conn.QueryRow(ctx, `SELECT s.confirmed_flush_lsn > e.lsn AND s.active FROM weir.event e, pg_replication_slots s
				WHERE e.id = $1 AND s.slot_name = $2`, last, h.slot).Scan(&is)
			return is, err
		}},
		{"the history has everything", func(ctx context.Context, conn *pgx.Conn) (is bool, err error) {
			err = conn.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM weir.history h WHERE (h.store = 'postgres' OR $1)
				AND (h.event_seq < (SELECT max(seq) FROM weir.event) OR h.outcome_seq < (SELECT max(seq) FROM weir.outcome)
					OR h.finished_at < (SELECT max(finalized_at) FROM weir.river_job
						WHERE state IN ('completed', 'cancelled', 'discarded') AND kind LIKE 'weir\_%'
							AND kind <> 'weir_housekeeping')))`,
				h.ground.elastic != nil).Scan(&is)
			return is, err
		}},
	}
	for _, step := range steps {
		if err := h.await(ctx, h.options.Settle, step.what, step.is); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			return h.notSettled(context.WithoutCancel(ctx), err), nil
		}
	}
	h.settled = time.Now()
	h.tell("settled; comparing")
	found, err := h.compare(ctx)
	return append(h.trouble(), found...), err
}

// notSettled is what there is to say about a run that does not come to its end: what differs by now, and a dump.
func (h *harness) notSettled(ctx context.Context, why error) []Difference {
	found := h.trouble()
	if err := h.gather(ctx); err != nil {
		found = append(found, Difference{Name: HarnessTrouble, About: err.Error()})
	}
	found = append(found, h.evidence.check()...)
	about := why.Error() + "\n" + h.dump(ctx)
	return append([]Difference{{Name: NotSettled, About: about}}, found...)
}

// compare checks, and again as long as all that differs is a history that may still come.
func (h *harness) compare(ctx context.Context) ([]Difference, error) {
	for deadline := time.Now().Add(lookAgain); ; {
		if err := h.gather(ctx); err != nil {
			return nil, err
		}
		found := h.evidence.check()
		late := len(found) > 0
		for _, d := range found {
			late = late && (d.Name == DocumentMissing || d.Name == DocumentStale)
		}
		if !late || time.Now().After(deadline) {
			return found, nil
		}
		select {
		case <-time.After(lookPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// gather takes the evidence anew.
func (h *harness) gather(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, h.url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	e := evidence{sent: h.writing.sent(), calls: h.ground.receiver.seen(), strict: h.options.Quiet}
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return e.gather(ctx, tx)
	})
	if err != nil {
		return err
	}
	if h.ground.elastic != nil {
		e.hasElastic = true
		if e.elastic, err = elasticPapers(ctx, h.ground.elastic.URL(), h.slot); err != nil {
			return fmt.Errorf("documents of Elasticsearch: %w", err)
		}
	}
	h.evidence = e
	return h.keepCalls()
}

// keepCalls writes the receiver's log beside those of the workers, if it is to be kept.
func (h *harness) keepCalls() error {
	if !h.options.Keep {
		return nil
	}
	f, err := os.Create(filepath.Join(h.dir, "receiver.log"))
	if err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	for _, c := range h.evidence.calls {
		fmt.Fprintf(out, "%+v\n", c) // Flush says what failed
	}
	return errors.Join(out.Flush(), f.Close())
}

// trouble is what went wrong beside what the checker sees: workers that ended by themselves, or did not end when they had to.
func (h *harness) trouble() []Difference {
	var found []Difference
	for _, w := range h.ground.workers {
		for _, how := range w.trouble() {
			found = append(found, Difference{Name: WorkerTrouble, About: how})
		}
	}
	for _, err := range h.ground.bad {
		found = append(found, Difference{Name: HarnessTrouble, About: err.Error()})
	}
	return found
}
