package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/store"
)

const (
	rescueEvery = time.Second
	// lostAfter is how many looks in a row must find a job that this client runs according to the database and does not
	// run: River's fetch committed and its answer was lost.
	lostAfter   = 5
	rescueBatch = 1000
	// maxDeaths is after how many deaths of its workers a delivery is a dead letter.
	maxDeaths = 5
	// lookTime bounds a look: a connection may be dead without anybody having said so.
	lookTime = 5 * time.Second
	// endTime is how long the sessions of the dead may take to end before the jobs that they held are looked for.
	endTime = 300 * time.Millisecond
	endPoll = 20 * time.Millisecond
)

// rescuer makes available again what dead workers were running. Every worker does it; row locks keep them apart.
type rescuer struct {
	pool     *pgxpool.Pool
	lease    *lease.Lease
	clientID string
	attempts *attempts
	set      *atomic.Pointer[observer.Set]
	metrics  *metrics
	log      *slog.Logger
	freed    chan<- struct{} // told when jobs were made available, perhaps in queues that nobody serves any more

	missing map[int64]int // looks in a row at jobs that this client does not run
}

// run looks after the dead until the context ends.
func (r *rescuer) run(ctx context.Context) {
	tick := time.NewTicker(rescueEvery)
	defer tick.Stop()
	logged := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := r.lookInTime(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != logged {
			r.log.Warn("dead workers not looked after, trying again", "error", err)
		}
		logged = ""
		if err != nil {
			logged = err.Error()
		}
	}
}

func (r *rescuer) lookInTime(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTime, fmt.Errorf("the database did not answer within %s", lookTime))
	defer cancel()
	err := r.look(ctx)
	if err != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	return err
}

// look declares dead who is, and rescues what nobody runs. A worker that was stopped may hold rows of jobs in open
// transactions: those are passed over, the sessions of the dead are ended, which rolls them back, and then they follow.
func (r *rescuer) look(ctx context.Context) error {
	if !r.lease.MayBury() {
		return nil
	}
	dead, err := r.lease.Bury(ctx, r.pool)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(dead))
	for _, d := range dead {
		r.log.Warn("a worker has not renewed its lease: others take over what it was running",
			"client_id", d.ClientID, "hostname", d.Hostname, "pid", d.PID, "seen_at", d.SeenAt)
		names = append(names, d.ClientID)
	}
	mark := r.attempts.mark()
	running, err := r.running(ctx)
	if err != nil {
		return err
	}
	mine := r.lostOnTheWay(running)
	r.attempts.forget(mark, running)
	if len(names) == 0 && len(mine) == 0 && len(orphans(running)) == 0 {
		return nil
	}
	if err := r.rescue(ctx, mine); err != nil {
		return err
	}
	if running, err = r.running(ctx); err != nil {
		return err
	}
	names = append(names, orphans(running)...)
	if len(names) == 0 {
		return nil
	}
	if err := r.endSessions(ctx, names); err != nil {
		return err
	}
	return r.rescue(ctx, nil)
}

func (r *rescuer) running(ctx context.Context) ([]store.RunningJobsRow, error) {
	rows, err := store.New().RunningJobs(ctx, r.pool, r.clientID)
	if err != nil {
		return nil, fmt.Errorf("list running jobs: %w", err)
	}
	return rows, nil
}

// orphans names the clients without a lease that still have running jobs, each once.
func orphans(running []store.RunningJobsRow) []string {
	var names []string
	for _, row := range running {
		if row.Orphan && !slices.Contains(names, row.ClientID) {
			names = append(names, row.ClientID)
		}
	}
	return names
}

// rescue gives running jobs without a living worker, and those named, back to the queue.
func (r *rescuer) rescue(ctx context.Context, mine []int64) error {
	for {
		var rows []store.RescueJobsRow
		err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) (err error) {
			rows, err = store.New().RescueJobs(ctx, tx, store.RescueJobsParams{
				Mine: append([]int64{}, mine...), MaxRows: rescueBatch, MaxDeaths: maxDeaths,
			})
			if err != nil {
				return err
			}
			return announce(ctx, tx, queuesOf(rows))
		})
		if err != nil {
			return fmt.Errorf("rescue jobs: %w", err)
		}
		r.report(rows)
		if len(rows) > 0 {
			select {
			case r.freed <- struct{}{}:
			default:
			}
		}
		if len(rows) < rescueBatch {
			return nil
		}
	}
}

func queuesOf(rows []store.RescueJobsRow) []string {
	var queues []string
	for _, row := range rows {
		if !row.Dead {
			queues = append(queues, row.Queue)
		}
	}
	return queues
}

// report counts and logs what was rescued, once for each worker that lost it, and each dead letter.
func (r *rescuer) report(rows []store.RescueJobsRow) {
	from := map[string]int{}
	for _, row := range rows {
		if row.Kind == KindHousekeeping {
			continue // nobody's delivery
		}
		from[row.ClientID]++
		if row.Dead {
			r.buried(row)
		}
	}
	for client, n := range from {
		r.log.Warn("rescued the jobs that a worker was running", "client_id", client, "jobs", n)
		r.metrics.rescued.Add(float64(n))
	}
}

// buried says that a delivery has become a dead letter because its workers die.
func (r *rescuer) buried(row store.RescueJobsRow) {
	var args Args
	if err := json.Unmarshal(row.Args, &args); err != nil {
		r.log.Error("arguments of a rescued job cannot be read", "job_id", row.ID, "error", err)
		return
	}
	attrs := []any{
		"job_id", row.ID, "kind", row.Kind, "observer", args.Observer, "action", args.Action, "event_id", args.EventID,
		"delivery_id", args.DeliveryID(), "deaths", maxDeaths,
	}
	bound, ok := r.set.Load().Lookup(args.Observer, args.Action)
	if ok {
		r.metrics.deliveries.WithLabelValues(args.Observer, bound.Action.Type(), dead).Inc()
	}
	if ok && bound.OnFailure == observer.OnFailureAlert {
		r.metrics.alerts.WithLabelValues(args.Observer).Inc()
	}
	// Kept whatever on_failure says: somebody should see what kills workers.
	r.log.Error("a delivery's workers died again and again, it is a dead letter", attrs...)
}

// lostOnTheWay returns the jobs that this client runs as far as the database knows, but not in truth.
func (r *rescuer) lostOnTheWay(running []store.RunningJobsRow) []int64 {
	missing := map[int64]int{}
	var lost []int64
	for _, row := range running {
		if row.Orphan || r.attempts.has(row.ID, int(row.Attempt)) {
			continue
		}
		if missing[row.ID] = r.missing[row.ID] + 1; missing[row.ID] >= lostAfter {
			lost = append(lost, row.ID)
		}
	}
	r.missing = missing
	return lost
}

// endSessions ends what the dead still have open on the server.
func (r *rescuer) endSessions(ctx context.Context, clients []string) error {
	names := make([]string, 0, len(clients))
	for _, c := range clients {
		if c != "" {
			names = append(names, "weir:"+c)
		}
	}
	// All at once: each for itself would take the server a tenth of a second.
	var ended int
	err := r.pool.QueryRow(ctx, `
		SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		 WHERE application_name = ANY($1) AND pid <> pg_backend_pid()`, names).Scan(&ended)
	if err == nil && ended > 0 {
		err = r.awaitEnd(ctx, names)
	}
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "42501":
		r.log.Warn("this role may not end the sessions of dead workers; the jobs that they hold wait until the server ends them",
			"error", pg.Message, "mend", fmt.Sprintf("GRANT pg_signal_backend TO %s;",
				pgx.Identifier{r.pool.Config().ConnConfig.User}.Sanitize()))
	case err != nil:
		return fmt.Errorf("end the sessions of dead workers: %w", err)
	case ended > 0:
		r.log.Info("ended the sessions of dead workers", "sessions", ended)
	}
	return nil
}

// awaitEnd gives the sessions a moment to roll back.
func (r *rescuer) awaitEnd(ctx context.Context, names []string) error {
	for deadline := time.Now().Add(endTime); time.Now().Before(deadline); {
		var left int
		err := r.pool.QueryRow(ctx, `
			SELECT count(*) FROM pg_stat_activity WHERE application_name = ANY($1) AND pid <> pg_backend_pid()`, names).Scan(&left)
		if err != nil || left == 0 {
			return err
		}
		time.Sleep(endPoll)
	}
	return nil
}

// attempts are those that this client works, and those that it has worked and River has yet to conclude. As River's
// middleware it sees every job.
type attempts struct {
	river.MiddlewareDefaults

	mu  sync.Mutex // guards the rest
	now map[int64]attempt
	seq int64
}

type attempt struct {
	number int
	ended  int64 // 0: being worked; else when it ended, as a mark
}

func newAttempts() *attempts { return &attempts{now: map[int64]attempt{}, seq: 1} }

// Work takes account of an attempt. Being the first of our functions that River calls, it also makes room for the others.
func (a *attempts) Work(ctx context.Context, job *rivertype.JobRow, doInner func(context.Context) error) error {
	_ = makeRoom(job.Attempt % callRoom)
	a.begin(job.ID, job.Attempt)
	defer a.end(job.ID, job.Attempt)
	return doInner(ctx)
}

// callRoom is more than the calls of a delivery take of a stack.
const callRoom = 8 << 10

// makeRoom has the goroutine's stack grow now. By itself it would do so below forty calls, and to copy those took one part in
// fourteen of a delivery's processor time. What it returns means nothing.
//
//go:noinline
func makeRoom(i int) byte {
	var room [callRoom]byte
	return room[i]
}

func (a *attempts) begin(id int64, number int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now[id] = attempt{number: number}
}

func (a *attempts) end(id int64, number int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now[id] = attempt{number: number, ended: a.seq}
}

func (a *attempts) has(id int64, number int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.now[id]
	return ok && at.number == number
}

// mark separates what ended before from what ends after.
func (a *attempts) mark() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seq++
	return a.seq
}

// forget drops what had ended before the mark and is not running for the database any more: it has been concluded.
func (a *attempts) forget(mark int64, running []store.RunningJobsRow) {
	still := make(map[int64]bool, len(running))
	for _, row := range running {
		still[row.ID] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, at := range a.now {
		if at.ended != 0 && at.ended < mark && !still[id] {
			delete(a.now, id)
		}
	}
}
