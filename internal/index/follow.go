package index

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fraiseql/weir/internal/store"
)

const (
	// roundRows bounds what a round reads of each source, and how many documents are stored at a time; roundBytes bounds the
	// payloads of the events that are held meanwhile.
	roundRows  = 500
	roundBytes = 2 << 20
	// pollEvery is how often a follower looks whether there is something new. Ingest in its own process wakes it before that.
	pollEvery = time.Second
	// gather is how long a follower that was woken waits for more of the same.
	gather = 100 * time.Millisecond
	// restMost bounds how long a follower rests between two full rounds. It rests for twice as long as the round took, so that
	// ingest and deliveries have the server for at least two thirds of the time.
	rests, restMost = 2, 400 * time.Millisecond
	// behindRests is how much longer it rests while the stream or deliveries are behind, which is worse than a history that comes
	// late.
	behindRests = 5
	// awayMost bounds the pause after a round that failed.
	awayFirst, awayMost = time.Second, 15 * time.Second
	unlockTime          = time.Second
	// tidyEvery is how often what is older than the retention is looked for.
	tidyEvery = 10 * time.Minute
	// roundTime bounds a round: a server that hangs is one that is away.
	roundTime = 2 * time.Minute
)

// Finished is a finished delivery that is still one of River's jobs, or another of its jobs, of which nothing is kept.
type Finished struct {
	JobID      int64
	FinishedAt time.Time
	Key        Key // of its event
	Outcome    Outcome
}

// FollowerOptions is what a Follower needs.
type FollowerOptions struct {
	Pool *pgxpool.Pool
	// Finished returns those of the jobs that have ended, in no order. Those that are no deliveries have no DeliveryID.
	Finished func(ctx context.Context, db store.DBTX, ids []int64) ([]Finished, error)
	// Refused keeps documents that a store cannot take as dead letters, in the transaction that passes over them.
	Refused func(ctx context.Context, tx pgx.Tx, refused []Refusal) error
	// Index says what the configuration in force wants.
	Index   *Index
	Logger  *slog.Logger
	Metrics *FollowerMetrics
}

// Follower stores a document for each event and for each outcome. Events and outcomes are followed by their numbers, which become
// visible in order, so none is passed over. Deliveries that have just finished are not in weir.outcome yet: they are found by the
// time at which they ended, which finds nearly all at once; one that came late is found when it is looked back, or at the latest
// when it is moved to weir.outcome.
//
// Any number of followers of a store may run, and each may die at any point: one at a time has the store's lock and makes a
// round, in which it reads, stores, and says how far it is. A round that was cut off is made again. Documents have fixed ids and
// the version of their round, so that one that was stored by somebody who was thought dead changes nothing.
type Follower struct {
	name string
	o    FollowerOptions
	log  *slog.Logger
	// send stores documents elsewhere, before the transaction that ends the round; write stores them in it. One of them is nil.
	send  func(ctx context.Context, docs []Document) ([]Refusal, error)
	write func(ctx context.Context, db store.DBTX, docs []Document) error
	// wanted says whether the configuration wants this store.
	wanted func(Config) bool
	// tidy removes what is older than the retention. nil: somebody else does.
	tidy   func(ctx context.Context) error
	tidied time.Time
	woken  chan struct{}
	fresh  fresh
	behind bool // the stream or deliveries are, as of the last step
}

// FollowPostgres makes the follower of PostgreSQL's own store.
func FollowPostgres(o FollowerOptions) *Follower {
	f := newFollower(storePostgres, o)
	f.write, f.wanted = putDocuments, Config.InPostgres
	return f
}

// FollowElasticsearch makes the follower of an Elasticsearch.
func FollowElasticsearch(e *Elasticsearch, o FollowerOptions) *Follower {
	f := newFollower(storeElasticsearch, o)
	f.send = func(ctx context.Context, docs []Document) ([]Refusal, error) { return e.put(ctx, docs, false) }
	f.wanted = Config.InElasticsearch
	f.tidy = func(ctx context.Context) error {
		retention := o.Index.Config().WithDefaults().Retention.Std()
		gone, err := e.expire(ctx, time.Now().UTC().Add(-retention).Truncate(24*time.Hour))
		for _, name := range gone {
			f.log.Info("removed an index that is older than the history's retention", "index", name)
		}
		return err
	}
	return f
}

func newFollower(name string, o FollowerOptions) *Follower {
	o.Metrics.expect(name)
	return &Follower{
		name: name, o: o, log: o.Logger.With("component", "history", "store", name), woken: make(chan struct{}, 1),
		fresh: newFresh(),
	}
}

// Wake says that there is something new.
func (f *Follower) Wake() {
	select {
	case f.woken <- struct{}{}:
	default:
	}
}

// Run follows until the context ends. What fails is logged and tried again.
func (f *Follower) Run(ctx context.Context) {
	logged, away := "", awayFirst
	for ctx.Err() == nil {
		began := time.Now()
		more, err := f.step(ctx)
		wait := pollEvery
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			f.o.Metrics.up.WithLabelValues(f.name).Set(0)
			if text := err.Error(); text != logged {
				f.log.Warn("history not stored, trying again", "error", text)
				logged = text
			}
			wait, away = away, min(2*away, awayMost)
		default:
			f.o.Metrics.up.WithLabelValues(f.name).Set(1)
			if logged != "" {
				f.log.Info("history is stored again")
			}
			logged, away = "", awayFirst
			if more {
				wait = min(rests*time.Since(began), restMost)
				if f.behind {
					wait *= behindRests
				}
			}
		}
		f.rest(ctx, wait, err == nil && !more)
	}
}

// rest waits, until it is woken if it may be.
func (f *Follower) rest(ctx context.Context, wait time.Duration, mayWake bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	woken := f.woken
	if !mayWake {
		woken = nil
	}
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-woken:
		select {
		case <-ctx.Done():
		case <-time.After(gather):
		}
	}
}

// step makes a round if there is reason to. It returns true when another one should follow at once.
func (f *Follower) step(ctx context.Context) (more bool, err error) {
	if !f.wanted(f.o.Index.Config()) {
		f.o.Metrics.lag.WithLabelValues(f.name).Set(0)
		return false, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, roundTime, fmt.Errorf("a round took longer than %s", roundTime))
	defer cancel()
	at, err := store.New().GetHistory(ctx, f.o.Pool, f.name)
	if err != nil {
		return false, fmt.Errorf("how far the history is: %w", err)
	}
	f.o.Metrics.lag.WithLabelValues(f.name).Set(at.LagSeconds)
	f.behind = at.OthersBehind
	pending := at.Pending
	if !pending {
		// A look that finds nothing writes nothing: an idle database stays idle.
		pending, err = f.fresh.missed(ctx, f.o.Pool, at.FinishedAt)
	}
	if err != nil || !pending {
		return false, err
	}
	conn, err := f.o.Pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	err = exclusively(ctx, conn.Conn(), f.name, false, func() error {
		more, err = f.round(ctx, conn.Conn())
		if err == nil && f.tidy != nil && time.Since(f.tidied) > tidyEvery {
			f.tidied = time.Now()
			err = f.tidy(ctx)
		}
		return err
	})
	return more, err
}

// exclusively does something under the lock of a store. When somebody else has it, it waits, or does nothing.
func exclusively(ctx context.Context, conn *pgx.Conn, name string, wait bool, do func() error) error {
	if wait {
		if err := store.New().LockHistory(ctx, conn, name); err != nil {
			return err
		}
	} else if got, err := store.New().TryHistory(ctx, conn, name); err != nil || !got {
		return err
	}
	defer func() {
		// A connection that cannot give the lock back must not be used any more.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTime)
		defer cancel()
		if err := store.New().UnlockHistory(ctx, conn, name); err != nil {
			_ = conn.Close(ctx)
		}
	}()
	return do()
}

// round reads what is new, stores it, and says so.
func (f *Follower) round(ctx context.Context, conn *pgx.Conn) (more bool, err error) {
	at, err := store.New().BeginRound(ctx, conn, f.name)
	if err != nil {
		return false, fmt.Errorf("begin a round: %w", err)
	}
	r := reading{db: conn, version: at.Version, at: at}
	if err := r.events(ctx); err != nil {
		return false, err
	}
	seen, err := f.fresh.read(ctx, &r, f.o.Finished)
	if err != nil {
		return false, err
	}
	if err := r.outcomes(ctx); err != nil {
		return false, err
	}
	stored, err := f.keep(ctx, conn, &r)
	if err != nil {
		return false, err
	}
	seen()
	f.o.Metrics.documents.WithLabelValues(f.name).Add(float64(stored))
	return r.full, nil
}

// keep stores documents and ends the round.
func (f *Follower) keep(ctx context.Context, conn *pgx.Conn, r *reading) (stored int, err error) {
	var refused []Refusal
	if f.send != nil {
		err := r.documents(ctx, func(docs []Document) error {
			some, err := f.send(ctx, docs)
			refused, stored = append(refused, some...), stored+len(docs)-len(some)
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return stored, pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if f.write != nil {
			err := r.documents(ctx, func(docs []Document) error {
				stored += len(docs)
				return f.write(ctx, tx, docs)
			})
			if err != nil {
				return err
			}
		}
		if len(refused) > 0 {
			f.o.Metrics.refused.WithLabelValues(f.name).Add(float64(len(refused)))
			if err := f.o.Refused(ctx, tx, refused); err != nil {
				return fmt.Errorf("keep %d documents that were refused: %w", len(refused), err)
			}
		}
		return f.end(ctx, tx, r.at)
	})
}

// end says how far the store is.
func (f *Follower) end(ctx context.Context, tx pgx.Tx, at store.WeirHistory) error {
	ended, err := store.New().EndRound(ctx, tx, store.EndRoundParams{
		Store: f.name, Version: at.Version, EventSeq: at.EventSeq, OutcomeSeq: at.OutcomeSeq, FinishedAt: at.FinishedAt,
	})
	if err == nil && ended == 0 {
		err = fmt.Errorf("another round of %s has begun meanwhile", f.name)
	}
	return err
}
