package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river"

	"github.com/fraiseql/weir/internal/lease"
)

const (
	metaAway = "weir_away" // how often Weir's own database has interrupted the delivery
	// maxAway is how often that costs no attempt: a function may be what ends its session.
	maxAway = 5
)

// awayError says that Weir's own database was not to be had. That is not the receiver's doing.
type awayError struct{ error }

func (e awayError) Unwrap() error { return e.error }

// away marks the errors of a database that is away, and lets others pass.
func away(err error) error {
	if isAway(err) {
		return awayError{err}
	}
	return err
}

func isAway(err error) bool {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		switch server.Code {
		case "57P01", "57P02", "57P03": // the server stops, has crashed, starts
			return true
		case "53300": // no connection is free
			return true
		case "25P03": // our own limit to a transaction that stands still: we were stopped
			return true
		}
		return false // also 08…: that is a function's connection to somewhere else
	}
	var connect *pgconn.ConnectError
	var network *net.OpError
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, lease.ErrStale) || errors.Is(err, lease.ErrLost)
}

// interruptedFree says that the database's absence has interrupted the attempt, and that this costs none: it does not for
// the first few times.
func interruptedFree(ctx context.Context, d *delivery, err error) bool {
	if !errors.As(err, &awayError{}) {
		return false
	}
	var meta struct {
		Away int `json:"weir_away"`
	}
	_ = json.Unmarshal(d.job.Metadata, &meta) // none is 0
	return meta.Away < maxAway && river.MetadataSet(ctx, metaAway, meta.Away+1) == nil
}
