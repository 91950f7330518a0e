package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/store"
)

const bigLSN = 0x7FFFFFFF_FFFFFFF0 // exact beyond the digits of a float

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		ctx, q := t.Context(), store.New()
		if _, err := q.GetCheckpoint(ctx, db); !errors.Is(err, pgx.ErrNoRows) {
			t.Fatalf("got error %v, want none of a checkpoint yet", err)
		}
		first := store.InsertCheckpointParams{
			SystemIdentifier: "18446744073709551615", Timeline: 3, Installation: "prod", Slot: "weir", LSN: bigLSN,
		}
		for _, want := range []int64{1, 0} {
			got, err := q.InsertCheckpoint(ctx, db, first)
			if err != nil || got != want {
				t.Errorf("InsertCheckpoint changed %d rows, want %d", got, want)
			}
			first.LSN = 1
		}
		taken, err := q.TakeCheckpoint(ctx, db, store.TakeCheckpointParams{Owner: "worker-1", Server: "port 5432", DatabaseSystem: "7"})
		check(t, err)
		if taken.LSN != bigLSN || taken.Epoch != 1 || taken.Owner != "worker-1" || taken.CommitTime != nil ||
			taken.SystemIdentifier != "18446744073709551615" || taken.State != "streaming" || taken.Server != "port 5432" ||
			taken.DatabaseSystem != "7" {
			t.Errorf("got %+v", taken)
		}
		if _, err := q.TakeCheckpoint(ctx, db, store.TakeCheckpointParams{Owner: "worker-2"}); !errors.Is(err, pgx.ErrNoRows) {
			t.Errorf("a checkpoint that another has taken since it was read: got error %v, want no rows", err)
		}
	})
}

// Whoever is not the owner, or not where the checkpoint is, changes nothing.
func TestAdvanceCheckpointIsFenced(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		ctx, q := t.Context(), store.New()
		_, err := q.InsertCheckpoint(ctx, db, store.InsertCheckpointParams{SystemIdentifier: "1", Slot: "weir", LSN: 100})
		check(t, err)
		_, err = q.TakeCheckpoint(ctx, db, store.TakeCheckpointParams{Owner: "worker-1", Server: "port 5432", DatabaseSystem: "7"})
		check(t, err)
		at := time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)
		advance := store.AdvanceCheckpointParams{
			FromLSN: 100, FromTxIndex: 0, Epoch: 1, LSN: bigLSN, TxIndex: 7, CommitTime: &at, Events: 5,
		}
		otherLSN, otherIndex, otherEpoch := advance, advance, advance
		otherLSN.FromLSN, otherIndex.FromTxIndex, otherEpoch.Epoch = 99, 1, 0
		for name, arg := range map[string]store.AdvanceCheckpointParams{
			"lsn": otherLSN, "index": otherIndex, "epoch": otherEpoch,
		} {
			if n, err := q.AdvanceCheckpoint(ctx, db, arg); err != nil || n != 0 {
				t.Errorf("with another %s: advanced %d rows", name, n)
			}
		}
		for _, want := range []int64{1, 0} {
			if n, err := q.AdvanceCheckpoint(ctx, db, advance); err != nil || n != want {
				t.Errorf("advanced %d rows, want %d", n, want)
			}
		}
		// A batch of no events (a heartbeat) keeps the commit time.
		n, err := q.AdvanceCheckpoint(ctx, db, store.AdvanceCheckpointParams{
			FromLSN: bigLSN, FromTxIndex: 7, Epoch: 1, LSN: bigLSN + 1,
		})
		if err != nil || n != 1 {
			t.Errorf("advanced %d rows, want 1", n)
		}
		got, err := q.GetCheckpoint(ctx, db)
		check(t, err)
		if got.LSN != bigLSN+1 || got.TxIndex != 0 || got.Events != 5 || got.CommitTime == nil || !got.CommitTime.Equal(at) {
			t.Errorf("got %+v", got)
		}
	})
}

func TestSchemaVersion(t *testing.T) {
	t.Parallel()
	inEachMode(t, func(t *testing.T, db *pgx.Conn) {
		version, err := store.New().SchemaVersion(t.Context(), db)
		if err != nil || version != migrations.Version {
			t.Errorf("got version %d, want %d", version, migrations.Version)
		}
	})
}
