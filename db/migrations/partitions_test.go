package migrations_test

import (
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const insertEvent = `INSERT INTO weir.event
	(day, id, pk, lsn, tx_index, event_type, entity_type, entity_id, commit_time, created_at, payload)
	VALUES ($1, gen_random_uuid(), 1, '0/1', 1, 'INSERT', 'Order', '1', now(), now(), '{}')`

func TestPartitionsOfTheFirstDays(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	for days := -1; days <= 7; days++ {
		day := time.Now().UTC().AddDate(0, 0, days).Truncate(24 * time.Hour)
		db.exec(insertEvent, day)
	}
	if n := db.count("weir.event_default"); n != 0 {
		t.Errorf("%d events from yesterday to a week from now are in the default partition", n)
	}
}

func TestEnsurePartitionsMovesRowsOfTheDefault(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	first := time.Date(2031, 5, 6, 0, 0, 0, 0, time.UTC)
	for _, day := range []time.Time{first, first, first.AddDate(0, 0, 1), first.AddDate(100, 0, 0)} {
		db.exec(insertEvent, day)
	}
	db.exec(`INSERT INTO weir.outcome
			(day, delivery_id, event_id, event_pk, observer, action, action_type, entity_type, entity_id, state)
		VALUES ($1, gen_random_uuid(), gen_random_uuid(), 1, 'o', 'a', 'log', 'Order', '1', 'completed')`, first)

	for i, want := range []int{6, 0} { // two days of three tables, then nothing
		if got := db.ensure(db.Conn, first, first.AddDate(0, 0, 1)); got != want {
			t.Errorf("call %d made %d partitions, want %d", i+1, got, want)
		}
	}
	for table, want := range map[string]int{
		"weir.event": 4, "weir.event_20310506": 2, "weir.event_20310507": 1, "weir.event_default": 1,
		"weir.outcome": 1, "weir.outcome_20310506": 1, "weir.outcome_default": 0,
	} {
		if got := db.count(table); got != want {
			t.Errorf("%s: got %d rows, want %d", table, got, want)
		}
	}
	// The new partition refuses a second ingest, as all do.
	var id string
	if err := db.QueryRow(t.Context(), "SELECT id FROM weir.event_20310507").Scan(&id); err != nil {
		t.Fatal(err)
	}
	_, err := db.Exec(t.Context(), `INSERT INTO weir.event SELECT * FROM weir.event_20310507`)
	wantError(t, err, "event_20310507_pkey", "23505")
}

// Sessions that make the same partitions, while others write into the days concerned, neither fail nor lose a row.
func TestEnsurePartitionsAtOnce(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	first := time.Date(2032, 1, 1, 0, 0, 0, 0, time.UTC)
	const sessions, rows, days = 4, 50, 10
	var group sync.WaitGroup
	made := make([]int, sessions)
	for i := range sessions {
		maker, writer := connect(t, db.url), connect(t, db.url)
		group.Go(func() { made[i] = db.ensure(maker, first, first.AddDate(0, 0, days-1)) })
		group.Go(func() {
			for n := range rows {
				if _, err := writer.Exec(t.Context(), insertEvent, first.AddDate(0, 0, n%days)); err != nil {
					t.Errorf("insert: %v", err)
				}
			}
		})
	}
	group.Wait()
	sum := 0
	for _, n := range made {
		sum += n
	}
	if sum != 3*days {
		t.Errorf("%d partitions were made, want %d", sum, 3*days)
	}
	if got := db.count("weir.event"); got != sessions*rows {
		t.Errorf("got %d events, want %d", got, sessions*rows)
	}
	if got := db.count("weir.event_default"); got != 0 {
		t.Errorf("%d events are in the default partition", got)
	}
}

func (db database) ensure(conn *pgx.Conn, first, last time.Time) (made int) {
	db.t.Helper()
	if err := conn.QueryRow(db.t.Context(), "SELECT weir.ensure_partitions($1, $2)", first, last).Scan(&made); err != nil {
		db.t.Errorf("ensure_partitions: %v", err)
	}
	return made
}

func (db database) count(table string) (n int) {
	db.t.Helper()
	if err := db.QueryRow(db.t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil {
		db.t.Fatal(err)
	}
	return n
}
