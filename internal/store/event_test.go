package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/store"
)

var today = time.Now().UTC().Truncate(24 * time.Hour)

// payload would not survive jsonb or a float: digits, order of keys, repeated keys, spaces.
const payload = `{"total": 100.10,  "big": 9007199254740993123, "a": 1, "a": 2, "text": "line\nline < > \u00e9"}`

func newEvent(day time.Time, lsn, txIndex int64) store.CopyEventsParams {
	return store.CopyEventsParams{
		Day: day, ID: uuid.New(), PK: 1, LSN: lsn, TxIndex: txIndex, EventType: "INSERT", EntityType: "Order",
		EntityID: uuid.NewString(), CommitTime: day, CreatedAt: day, Payload: []byte(payload),
	}
}

func copyEvents(t *testing.T, db *pgx.Conn, events ...store.CopyEventsParams) {
	t.Helper()
	if n, err := store.New().CopyEvents(t.Context(), db, events); err != nil || n != int64(len(events)) {
		t.Fatalf("copied %d events, want %d", n, len(events))
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		ctx, q := t.Context(), store.New()
		tenant := "acme"
		a, b, c := newEvent(today, 200, 1), newEvent(today.AddDate(0, 0, -1), bigLSN, 2), newEvent(today.AddDate(50, 0, 0), 200, 2)
		a.TenantID, b.ID, b.PK = &tenant, a.ID, 2 // the change log's id is not unique
		copyEvents(t, db, a, b, c)

		got, err := q.GetEvent(ctx, db, store.GetEventParams{Day: b.Day, ID: b.ID, PK: b.PK})
		check(t, err)
		if !got.Day.Equal(b.Day) || got.ID != b.ID || got.PK != 2 || got.LSN != bigLSN || got.TxIndex != 2 ||
			string(got.Payload) != payload || got.IngestedAt.IsZero() {
			t.Errorf("got %+v, want %+v", got, b)
		}
		if _, err := q.GetEvent(ctx, db, store.GetEventParams{Day: a.Day, ID: b.ID, PK: b.PK}); !errors.Is(err, pgx.ErrNoRows) {
			t.Errorf("got error %v for another day, want no rows", err)
		}

		// (day of b, id of a, pk of a) is no event, though each of its parts occurs.
		many, err := q.GetEvents(ctx, db, store.GetEventsParams{
			Days: []time.Time{a.Day, c.Day, b.Day}, IDs: []uuid.UUID{a.ID, c.ID, a.ID}, PKs: []int64{a.PK, c.PK, a.PK},
		})
		check(t, err)
		slices.SortFunc(many, func(x, y store.GetEventsRow) int { return int(x.TxIndex - y.TxIndex) })
		if len(many) != 2 || many[0].ID != a.ID || many[0].PK != a.PK || many[1].ID != c.ID {
			t.Errorf("got %+v, want a and c", many)
		}

		found, err := q.FindEventsByID(ctx, db, a.ID)
		check(t, err)
		if len(found) != 2 || found[0].PK != 1 || found[1].PK != 2 {
			t.Errorf("got %+v, want a and b in commit order", found)
		}
		last, err := q.LastEvents(ctx, db, 2)
		check(t, err)
		// The position of b may be another cluster's, before an adoption: it says nothing.
		if len(last) != 2 || last[0].ID != c.ID || last[1].PK != 2 {
			t.Errorf("got %+v, want c and b, the order in which they were recorded", last)
		}
	})
}

// The database itself refuses a second ingest, and nothing of its batch stays.
func TestCopyEventsRefusesRepeats(t *testing.T) {
	t.Parallel()
	db := setup(t, pgx.QueryExecModeCacheStatement)
	a, b := newEvent(today, 1, 1), newEvent(today, 1, 2)
	copyEvents(t, db, a)
	_, err := store.New().CopyEvents(t.Context(), db, []store.CopyEventsParams{b, a})
	var server *pgconn.PgError
	if !errors.As(err, &server) || server.Code != "23505" {
		t.Errorf("got error %v, want a unique violation", err)
	}
	if last, err := store.New().LastEvents(t.Context(), db, 10); err != nil || len(last) != 1 {
		t.Errorf("got %d events, want 1", len(last))
	}
}

// The questions of a delivery and of a person are answered from indexes, and a delivery's from one partition.
func TestEventPlans(t *testing.T) {
	t.Parallel()
	db := setup(t, pgx.QueryExecModeCacheStatement)
	var events []store.CopyEventsParams
	for n := range int64(3000) {
		events = append(events, newEvent(today.AddDate(0, 0, int(n%3)), n, 1))
	}
	copyEvents(t, db, events...)
	for name, test := range map[string]struct {
		sql  string
		args []any
		want int // partitions read
	}{
		"GetEvent": {
			`EXPLAIN (ANALYZE, COSTS off) SELECT payload FROM weir.event WHERE day = $1 AND id = $2 AND pk = $3`,
			[]any{today, events[0].ID, events[0].PK},
			1,
		},
		"GetEvents": {
			`EXPLAIN (ANALYZE, COSTS off) SELECT payload FROM weir.event WHERE day = ANY($1::date[]) AND id = ANY($2::uuid[])
			 AND (day, id, pk) IN (SELECT unnest($1::date[]), unnest($2::uuid[]), unnest($3::bigint[]))`,
			[]any{[]time.Time{today}, []uuid.UUID{events[0].ID}, []int64{events[0].PK}},
			1,
		},
		"FindEventsByID": {
			`EXPLAIN (ANALYZE, COSTS off) SELECT payload FROM weir.event WHERE id = $1`, []any{events[0].ID}, 10,
		},
		"LastEvents": {
			`EXPLAIN (ANALYZE, COSTS off) SELECT payload FROM weir.event ORDER BY seq DESC LIMIT $1`, []any{10}, 10,
		},
	} {
		for _, plan := range []string{"force_custom_plan", "force_generic_plan"} {
			_, err := db.Exec(t.Context(), "VACUUM ANALYZE weir.event")
			check(t, err)
			_, err = db.Exec(t.Context(), "SET plan_cache_mode = "+plan)
			check(t, err)
			rows, err := db.Query(t.Context(), test.sql, test.args...)
			check(t, err)
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			check(t, err)
			text := strings.Join(lines, "\n")
			read := 0
			for _, line := range lines {
				if strings.Contains(line, " on event_") && !strings.Contains(line, "never executed") {
					read++
				}
			}
			// Empty partitions may be scanned, rows that are not asked for may not be read.
			if read > test.want || strings.Contains(text, "Rows Removed by Filter") {
				t.Errorf("%s with %s reads %d partitions, want at most %d, by index:\n%s", name, plan, read, test.want, text)
			}
		}
	}
}

func TestEnsurePartitions(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		day := time.Date(2040, 2, 28, 0, 0, 0, 0, time.UTC)
		for _, want := range []int32{6, 0} {
			days := store.EnsurePartitionsParams{First: day, Last: day.AddDate(0, 0, 1)}
			n, err := store.New().EnsurePartitions(t.Context(), db, days)
			if err != nil || n != want {
				t.Errorf("made %d partitions, want %d", n, want)
			}
		}
	})
}
