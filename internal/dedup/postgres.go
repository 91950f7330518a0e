package dedup

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/store"
)

// Postgres keeps claims in the table weir.dedup. Its errors are pgx's. Rows that have expired mean nothing;
// store.Queries.DeleteExpiredDedup removes them.
type Postgres struct {
	db      store.DBTX
	queries *store.Queries
}

var _ Claims = (*Postgres)(nil)

// NewPostgres is for a pool: a claim in a transaction would be seen only after its commit, and whoever asks for the same key
// would wait until then.
func NewPostgres(db store.DBTX) *Postgres { return &Postgres{db, store.New()} }

// Claim see Claims.
func (p *Postgres) Claim(ctx context.Context, k Key, h Holder, lease time.Duration) (Answer, error) {
	for {
		row, err := p.queries.ClaimDedup(ctx, p.db, store.ClaimDedupParams{
			Observer: k.Observer, Action: k.Action, KeyHash: hash(k), Delivery: h.Delivery, Attempt: h.Attempt, Lease: lease,
		})
		switch {
		case errors.Is(err, pgx.ErrNoRows): // somebody was first: the next look sees whom, or that he has given it back
			continue
		case err != nil:
			return Answer{}, err
		case row.Claimed:
			return Answer{State: Claimed, Of: h.Delivery}, nil
		}
		return answer(h, row.Delivery, row.Done, row.Rest), nil
	}
}

// Done see Claims.
func (p *Postgres) Done(ctx context.Context, k Key, h Holder, window time.Duration) error {
	return p.queries.FinishDedup(ctx, p.db, store.FinishDedupParams{
		Observer: k.Observer, Action: k.Action, KeyHash: hash(k), Delivery: h.Delivery, Attempt: h.Attempt, TimeWindow: window,
	})
}

// Release see Claims.
func (p *Postgres) Release(ctx context.Context, k Key, h Holder) error {
	return p.queries.ReleaseDedup(ctx, p.db, store.ReleaseDedupParams{
		Observer: k.Observer, Action: k.Action, KeyHash: hash(k), Delivery: h.Delivery, Attempt: h.Attempt,
	})
}

func hash(k Key) []byte {
	sum := sha256.Sum256([]byte(k.Key))
	return sum[:]
}
