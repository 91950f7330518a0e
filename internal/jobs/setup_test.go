package jobs

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/sandbox"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(postgres.Main(m)) }

// rig is a queue on a migrated database.
type rig struct {
	t    *testing.T
	q    *Queue
	pool *pgxpool.Pool
	reg  *prometheus.Registry
}

// newRig makes a queue with what would stand under `observers:`.
func newRig(t *testing.T, observers string) *rig {
	t.Helper()
	url := postgres.Database(t)
	pool, err := pgxpool.New(t.Context(), url)
	check(t, err)
	t.Cleanup(pool.Close)
	reader, err := capture.NewReader(t.Context(), url, "test", capture.Config{})
	check(t, err)
	t.Cleanup(reader.Close)
	r := &rig{t: t, pool: pool, reg: prometheus.NewRegistry()}
	own := lease.New(lease.Options{DatabaseURL: url, ClientID: "test", Logger: slog.New(slog.DiscardHandler)})
	check(t, own.Take(t.Context()))
	ctx, giveBack := context.WithCancel(context.WithoutCancel(t.Context()))
	given := make(chan error, 1)
	go func() { given <- own.Run(ctx) }()
	t.Cleanup(func() {
		giveBack()
		check(t, <-given)
	})
	r.q, err = New(Options{
		Pool: pool, Lease: own, Index: index.New(1<<20, index.Config{}), Reader: reader, Observers: observerSet(t, observers), ClientID: "test",
		SoftStop: time.Second, Logger: slog.New(slog.DiscardHandler), RiverLogger: slog.New(slog.DiscardHandler), Registerer: r.reg,
	})
	check(t, err)
	return r
}

// observerSet compiles observers whose webhooks have no HTTP client: one that is called panics.
func observerSet(t *testing.T, text string) *observer.Set {
	t.Helper()
	var configs map[string]observer.Config
	check(t, yaml.NewDecoder(strings.NewReader(text), yaml.Strict()).DecodeContext(t.Context(), &configs))
	set, err := observer.New(configs, action.Deps{Logger: slog.New(slog.DiscardHandler)})
	check(t, err)
	return set
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// commit records and inserts the changes as a batch of the stream does.
func (r *rig) commit(changes ...event.Change) {
	r.t.Helper()
	check(r.t, pgx.BeginFunc(r.t.Context(), r.pool, func(tx pgx.Tx) error { return r.ingest(tx, changes) }))
	r.q.Committed()
}

func (r *rig) ingest(tx pgx.Tx, changes []event.Change) error {
	made, err := r.q.Insert(r.t.Context(), tx, changes)
	if err != nil {
		return err
	}
	var events []index.Ingested
	for i := range changes {
		if changes[i].Reason == "" {
			events = append(events, index.Ingested{Event: &changes[i].Event, Matched: made[i]})
		}
	}
	return r.q.index.Record(r.t.Context(), tx, events)
}

// lines are the rows of a query that has one column of text.
func (r *rig) lines(sql string, args ...any) []string {
	r.t.Helper()
	rows, err := r.pool.Query(r.t.Context(), sql, args...)
	check(r.t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(r.t, err)
	return got
}

// run works jobs until the test ends.
func (r *rig) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.q.Run(ctx) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	})
}

// await polls until the query says true: what River does in the database, nothing signals.
func (r *rig) await(what, sql string) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		var is bool
		check(r.t, r.pool.QueryRow(r.t.Context(), sql).Scan(&is))
		if is {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("never happened: %s", what)
		}
	}
}

// metric is the value of a counter; labels are name and value by turns.
func (r *rig) metric(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	check(r.t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			has := map[string]string{}
			for _, l := range m.GetLabel() {
				has[l.GetName()] = l.GetValue()
			}
			same := true
			for i := 0; i < len(labels); i += 2 {
				same = same && has[labels[i]] == labels[i+1]
			}
			if same {
				return m.GetCounter().GetValue()
			}
		}
	}
	r.t.Fatalf("no %s of %v", name, labels)
	return 0
}

// order is a change of entity Order.
func order(pk int64, data string) event.Change {
	at := event.Time(time.Date(2026, 2, 28, 22, 30, 0, 0, time.UTC))
	return event.Change{Event: event.Event{
		ID: uuid.NewSHA1(uuid.Nil, []byte{byte(pk)}), PK: pk, Type: event.Insert, EntityType: "Order", EntityID: "42",
		Data: json.RawMessage(data), Timestamp: at, CommitTime: at, LSN: 0x16_B374D848, TxIndex: pk,
	}}
}
