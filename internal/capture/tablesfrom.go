package capture

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// The server cannot decode a change that is older than a publication that it is asked for. On a first start both
// publications are made before the slot, so all that comes from it can be read with both. Where tables are named later, their
// publication is younger than what the slot still holds. The stream then goes on with the change log's alone, until every
// transaction that ran when the publication was made has ended: what commits after that began after it. From there on
// (weir.checkpoint.tables_from) it can be read. The stream stops at this place, between two transactions, and is started anew
// with both: a position counts what the publications in use let through, so they may not change within a transaction.

// errTurn ends a stream that is to be started anew with other publications. It is no failure.
var errTurn = errors.New("the stream goes on with other publications")

// readsTables says that the position is counted, and the stream to be read, with the publication of the tables, too.
func (cp *checkpoint) readsTables() bool {
	return cp.TablesFrom > 0 && cp.Position.LSN >= cp.TablesFrom
}

// publications are what the stream is to be read with.
func (c Config) publications(tables bool) string {
	if tables {
		return string(c.Publication) + "," + c.tablesPublication()
	}
	return string(c.Publication)
}

// tables is what an owner knows of source.tables when it begins to read.
type tables struct {
	read    bool      // they are
	turn    event.LSN // where they begin to be; 0: not within this stream
	pending bool      // they wait for transactions that are older than their publication
}

// takeTables makes the publication of source.tables what the configuration says, and finds out from where on it can be read.
func (s *Stream) takeTables(ctx context.Context, src, dst *pgx.Conn, cp *checkpoint) (tables, error) {
	kept := s.keepsSlot() // the publication's tables may be locked
	defer kept()
	made, changed, err := publishTables(ctx, src, s.cfg)
	if err != nil {
		return tables{}, err
	}
	if len(changed) > 0 {
		s.log.Info("publication of the tables changed", "statements", strings.Join(changed, "; "))
	}
	switch {
	case made && cp.TablesFrom > 0:
		return tables{}, fmt.Errorf("publication %s was gone: %w", s.cfg.tablesPublication(), errChanged)
	case cp.readsTables():
		return tables{read: true}, nil
	case cp.TablesFrom > 0:
		return tables{turn: cp.TablesFrom}, s.beatNow(ctx, src)
	case !s.cfg.CapturesTables():
		return tables{}, nil
	}
	if made || s.tablesAfter == 0 {
		err := src.QueryRow(ctx, newestTransaction).Scan(&s.tablesAfter)
		if err != nil {
			return tables{}, fmt.Errorf("ask for the newest transaction: %w", err)
		}
	}
	over, err := endedBefore(ctx, src, s.tablesAfter)
	if err != nil || !over {
		return tables{pending: true}, err
	}
	if err := storeTablesFrom(ctx, src, dst, cp); err != nil {
		return tables{}, err
	}
	s.log.Info("tables will be read", "from", cp.TablesFrom.String())
	return tables{turn: cp.TablesFrom}, s.beatNow(ctx, src)
}

// newestTransaction is younger than every transaction that runs.
const newestTransaction = `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint`

// beatNow has the stream get to where it turns, also when nobody else writes.
func (s *Stream) beatNow(ctx context.Context, src *pgx.Conn) error {
	if _, err := src.Exec(ctx, emitHeartbeat, heartbeatPrefix); err != nil {
		return fmt.Errorf("emit a heartbeat: %w", err)
	}
	return nil
}

// endedBefore says that every transaction has ended that is older than one.
func endedBefore(ctx context.Context, src *pgx.Conn, transaction int64) (over bool, err error) {
	err = src.QueryRow(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= $1`, transaction).Scan(&over)
	if err != nil {
		return false, fmt.Errorf("ask for the oldest transaction: %w", err)
	}
	return over, nil
}

// storeTablesFrom takes the end of the WAL, behind which there is no commit of an older transaction. Nothing is ingested
// meanwhile, so no position is counted without the tables behind it.
func storeTablesFrom(ctx context.Context, src, dst *pgx.Conn, cp *checkpoint) error {
	var end string
	if err := src.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&end); err != nil {
		return fmt.Errorf("ask for the end of the WAL: %w", err)
	}
	from, err := event.ParseLSN(end)
	if err != nil {
		return err
	}
	return setTablesFrom(ctx, dst, cp, from)
}

func setTablesFrom(ctx context.Context, dst *pgx.Conn, cp *checkpoint, from event.LSN) error {
	changed, err := store.New().SetTablesFrom(ctx, dst, store.SetTablesFromParams{TablesFrom: int64(from), Epoch: cp.Epoch})
	if err != nil {
		return fmt.Errorf("store from where on tables are read: %w", err)
	}
	if changed != 1 {
		return errFenced
	}
	cp.TablesFrom = from
	return nil
}

const (
	turnPoll    = 500 * time.Millisecond
	turnLogging = 10 * time.Second
)

// awaitOlder waits, beside the stream, until every transaction has ended that is older than one; then the stream is to be
// started anew.
func (s *Stream) awaitOlder(ctx context.Context, transaction int64, what string) error {
	conn, err := s.connectSource(ctx)
	if err != nil {
		return fmt.Errorf("connect to the source: %w", err)
	}
	defer closeConn(ctx, conn)
	logged := time.Now().Add(turnPoll - turnLogging) // not for a wait of a moment
	for {
		over, err := endedBefore(ctx, conn, transaction)
		switch {
		case err != nil:
			return err
		case over:
			return errTurn
		case time.Since(logged) > turnLogging:
			logged = time.Now()
			s.log.Info("older transactions have to end first", "for", what, "transactions", openTransactions(ctx, conn))
		}
		sleep(ctx, turnPoll)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// turns says that a message begins the first transaction behind the place where the stream turns.
func (s *stream) turns(wal []byte) (bool, error) {
	if s.turn == 0 || len(wal) == 0 || pglogrepl.MessageType(wal[0]) != pglogrepl.MessageTypeBegin {
		return false, nil
	}
	var m pglogrepl.BeginMessage
	if err := parse(&m, wal[1:]); err != nil {
		return false, fmt.Errorf("decode Begin: %w", err)
	}
	return event.LSN(m.FinalLSN) >= s.turn, nil
}

// turnOver stores the place where the stream turns and ends. All that was committed before it has been read.
func (s *stream) turnOver(ctx context.Context) error {
	if at := (event.Position{LSN: s.turn}); s.open.end.Compare(at) < 0 {
		s.open.end = at
	}
	s.open.heartbeat = true
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	batches := s.batches
	for {
		select {
		case batches <- s.open:
			batches = nil
		case now := <-poll.C:
			if err := s.sendStatus(ctx, now, false); err != nil {
				return err
			}
			if batches == nil && event.LSN(s.stored.newest()) >= s.turn {
				return errTurn
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
