package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/store"
)

func TestClaimDedup(t *testing.T) {
	t.Parallel()

	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		q := store.New()
		ask := func(delivery uuid.UUID, lease time.Duration) store.ClaimDedupRow {
			t.Helper()
			row, err := q.ClaimDedup(t.Context(), db, store.ClaimDedupParams{
				Observer: "o", Action: "a", KeyHash: []byte{0}, Delivery: delivery, Attempt: uuid.New(), Lease: lease,
			})
			check(t, err)
			return row
		}
		first, second := uuid.New(), uuid.New()
		if got, want := ask(first, 40*24*time.Hour), (store.ClaimDedupRow{Claimed: true, Delivery: first}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		got := ask(second, time.Hour) // 40 days, which no month shortens
		if got.Claimed || got.Done || got.Delivery != first || got.Rest.Round(time.Hour) != 40*24*time.Hour {
			t.Errorf("got %+v, want the first delivery's claim for another 40 days", got)
		}
		check(t, q.FinishDedup(t.Context(), db, store.FinishDedupParams{
			Observer: "o", Action: "a", KeyHash: []byte{0}, Delivery: first, Attempt: uuid.New(), TimeWindow: time.Hour,
		}))
		if got := ask(second, time.Hour); !got.Done || got.Delivery != first || got.Rest.Round(time.Minute) != time.Hour {
			t.Errorf("got %+v, want the first delivery's success for an hour", got)
		}
	})
}

// A claim that is committed between the look and the insertion is no row: neither claimed nor a holder from before.
func TestClaimDedupBehindAnother(t *testing.T) {
	t.Parallel()

	first := setup(t, pgx.QueryExecModeCacheStatement)
	second, err := pgx.ConnectConfig(t.Context(), first.Config())
	check(t, err)
	defer second.Close(t.Context())
	q := store.New()
	claim := func(db store.DBTX) (store.ClaimDedupRow, error) {
		return q.ClaimDedup(t.Context(), db, store.ClaimDedupParams{
			Observer: "o", Action: "a", KeyHash: []byte{0}, Delivery: uuid.New(), Attempt: uuid.New(), Lease: time.Hour,
		})
	}
	tx, err := first.Begin(t.Context())
	check(t, err)
	row, err := claim(tx)
	check(t, err)
	if !row.Claimed {
		t.Errorf("got %+v, want a claim", row)
	}
	late := make(chan error)
	go func() { _, err := claim(second); late <- err }()
	watcher, err := pgx.ConnectConfig(t.Context(), first.Config())
	check(t, err)
	defer watcher.Close(t.Context())
	for waits := false; !waits; {
		check(t, watcher.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)",
			second.PgConn().PID()).Scan(&waits))
	}
	check(t, tx.Commit(t.Context()))
	if err := <-late; !errors.Is(err, pgx.ErrNoRows) {
		t.Errorf("got %v, want no row", err)
	}
	if again, err := claim(second); err != nil || again.Claimed || again.Delivery != row.Delivery {
		t.Errorf("got %+v, %v, want the first delivery's claim", again, err)
	}
}

func TestDeleteExpiredDedup(t *testing.T) {
	t.Parallel()

	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		_, err := db.Exec(t.Context(), `
			INSERT INTO weir.dedup (observer, action, key_hash, delivery, attempt, done, expires_at)
			SELECT 'o', 'a', decode(lpad(to_hex(n), 8, '0'), 'hex'), gen_random_uuid(), gen_random_uuid(), n % 2 = 0,
			       now() + CASE WHEN n <= 10003 THEN '-1 ms' ELSE '1 h' END::interval
			FROM generate_series(1, 10010) n`)
		check(t, err)
		for _, want := range []int64{10000, 3, 0} {
			got, err := store.New().DeleteExpiredDedup(t.Context(), db, 10_000)
			check(t, err)
			if got != want {
				t.Errorf("got %d rows removed, want %d", got, want)
			}
		}
		var left int
		check(t, db.QueryRow(t.Context(), "SELECT count(*) FROM weir.dedup WHERE expires_at > now()").Scan(&left))
		if left != 7 {
			t.Errorf("got %d rows left, want 7", left)
		}
	})
}
