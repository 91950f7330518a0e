package ops

import (
	"context"
	"fmt"
	"time"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// Throughput counts the deliveries that ended in a range of time, stretch by stretch.
type Throughput struct {
	From event.Time `json:"from"` // by the database's clock, as all times are
	To   event.Time `json:"to"`
	// BucketSeconds is how long a stretch is. The first begins at From, the last ends at To or a little later.
	BucketSeconds float64 `json:"bucket_seconds"`
	// CompleteFrom is from when on every delivery is counted: From, or later where more deliveries ended than one question looks at.
	CompleteFrom event.Time `json:"complete_from"`
	// Counts are in the order of time, observer and outcome, without those that are 0.
	Counts []DeliveryCount `json:"counts"`
}

// DeliveryCount is how many deliveries of an observer ended in the same way in a stretch of time.
type DeliveryCount struct {
	Start    event.Time `json:"start"`
	Observer string     `json:"observer"`
	// Outcome is one of index.Outcomes. A dead letter that was removed counts as cancelled.
	Outcome    string `json:"outcome"`
	Deliveries int64  `json:"deliveries"`
}

// throughputRows bounds what a question looks at in each of its four sources: some 200 ms of the server's time.
const throughputRows = 100_000

// ReadThroughput looks back from now. The stretches keep their places on the clock, so that what has ended stays in its own.
func ReadThroughput(ctx context.Context, db DB, span, bucket time.Duration) (Throughput, error) {
	return readThroughput(ctx, db, span, bucket, throughputRows)
}

func readThroughput(ctx context.Context, db DB, span, bucket time.Duration, rows int32) (Throughput, error) {
	var now time.Time
	if err := db.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return Throughput{}, fmt.Errorf("read the database's clock: %w", err)
	}
	from := now.UTC().Truncate(bucket).Add(bucket - span)
	found, err := store.New().CountDeliveries(ctx, db, store.CountDeliveriesParams{Since: from, Bucket: bucket, MaxRows: rows})
	if err != nil {
		return Throughput{}, fmt.Errorf("count the deliveries since %s: %w", from.Format(time.RFC3339), err)
	}
	t := Throughput{
		From: event.Time(from), To: event.Time(now), BucketSeconds: bucket.Seconds(), Counts: []DeliveryCount{},
		CompleteFrom: event.Time(completeFrom(found, from, int64(rows))),
	}
	for _, row := range found {
		if row.Deliveries == 0 || row.Start.Before(from) {
			continue
		}
		last := len(t.Counts) - 1
		one := DeliveryCount{
			Start: event.Time(row.Start.UTC()), Observer: row.Observer, Outcome: row.Result, Deliveries: row.Deliveries,
		}
		if last >= 0 && t.Counts[last].sameAs(one) { // of another source
			t.Counts[last].Deliveries += one.Deliveries
			continue
		}
		t.Counts = append(t.Counts, one)
	}
	return t, nil
}

func (c DeliveryCount) sameAs(other DeliveryCount) bool {
	return time.Time(c.Start).Equal(time.Time(other.Start)) && c.Observer == other.Observer && c.Outcome == other.Outcome
}

// completeFrom is the latest of the oldest rows of the sources that had more to show.
func completeFrom(found []store.CountDeliveriesRow, from time.Time, limit int64) time.Time {
	looked, oldest := map[int32]int64{}, map[int32]time.Time{}
	for _, row := range found {
		looked[row.Source] += row.LookedAt
		if at, ok := oldest[row.Source]; !ok || row.Oldest.Before(at) {
			oldest[row.Source] = row.Oldest
		}
	}
	complete := from
	for source, n := range looked {
		if n >= limit && oldest[source].After(complete) {
			complete = oldest[source]
		}
	}
	return complete
}
