package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

// A snapshot makes an INSERT of each row that a table has already. A temporary slot gives a point P of the WAL and a view of
// exactly what was committed before it. The owner of the stream reads the table under this view, beside the stream, which it
// holds meanwhile. P is stored before the first row, and from then on the stream skips changes of the table that were
// committed before P, and delivers the others.
//
// Broken off, the snapshot is taken again at a later point, but the stream still takes over at P: a row that has been made known
// and was deleted since is in no later snapshot, and only the stream tells of its end. An event's id is made of the row's
// contents, so a row that is unchanged makes no second event.

const (
	// snapshotSource is the cdc_source of a snapshot's events.
	snapshotSource = "snapshot"
	// below is how far the position of a snapshot's events is below P. What keeps an order of positions (a version in
	// Elasticsearch) may round them.
	below = 64
	// openPatience is how long the stream waits for transactions that are open before it goes on without the snapshot for a while.
	openPatience = 10 * time.Second
	// reportEvery is the time between two lines of progress in the log.
	reportEvery = 5 * time.Second
)

// snapshots takes the snapshots that are to be taken.
type snapshots struct {
	stream  *Stream
	src     *pgx.Conn // not used by anybody else meanwhile, nor dst
	dst     *pgx.Conn
	cp      *checkpoint
	log     *slog.Logger
	pending []pending
}

// pending is a snapshot that is to be taken.
type pending struct {
	CapturedTable
	number int32     // of the snapshot: part of its events' identity
	joined event.LSN // where the stream takes over; 0: not known before it is begun
	rows   int64     // that have become events so far
	asked  time.Time // no event of it is older, save for the difference of two clocks
}

// takeSnapshots takes the snapshots of an owner that has just begun, and holds the stream meanwhile. The reader is told where it
// takes over. waits says that a snapshot waits for transactions that are open: the stream goes on without its table.
func (s *Stream) takeSnapshots(ctx context.Context, src, dst *pgx.Conn, cp *checkpoint, reader *stream) (waits bool, err error) {
	kept := s.keepsSlot()
	defer kept()
	snaps := snapshots{stream: s, src: src, dst: dst, cp: cp, log: s.log}
	joined, err := snaps.plan(ctx)
	if err != nil || len(snaps.pending) == 0 {
		reader.dec.joined = joined
		return false, err
	}
	reader.dec.joined = joined
	held, release := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		err := reader.hold(held)
		release() // the stream is not ours any more
		done <- err
	}()
	err = snaps.take(held, joined)
	release()
	if lost := <-done; lost != nil {
		return false, lost
	}
	if errors.Is(err, errNotYet) {
		s.log.Info("snapshot waits for open transactions, the stream goes on without its tables")
		snaps.skip(joined)
		err = src.QueryRow(ctx, newestTransaction).Scan(&s.snapshotAfter)
		return true, err
	}
	return false, err
}

// plan finds out what is to be done. For each table of which a snapshot has begun it says where the stream takes over.
func (s *snapshots) plan(ctx context.Context) (joined map[Table]event.LSN, err error) {
	names := make([]string, len(s.stream.cfg.Tables))
	for i, t := range s.stream.cfg.Tables {
		names[i] = t.Table.String()
	}
	var known []store.CapturedTablesRow
	err = s.fenced(ctx, func(tx pgx.Tx) error {
		if _, err := store.New().ForgetSnapshots(ctx, tx, names); err != nil {
			return err
		}
		for _, t := range s.stream.cfg.Tables {
			if t.Snapshot {
				if err := store.New().AskForSnapshot(ctx, tx, t.Table.String()); err != nil {
					return err
				}
			}
		}
		known, err = store.New().CapturedTables(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for snapshots: %w", err)
	}
	joined = map[Table]event.LSN{}
	for _, row := range known {
		i := slices.Index(names, row.Name)
		if i < 0 {
			continue
		}
		t := s.stream.cfg.Tables[i]
		joined[t.Table] = event.LSN(row.Joined)
		if t.Lacks(row) {
			s.pending = append(s.pending, pending{
				CapturedTable: t, number: row.Snapshot, joined: joined[t.Table], rows: row.Rows, asked: row.AskedAt,
			})
		}
	}
	return joined, nil
}

// fenced runs a transaction that only the owner of the stream can commit.
func (s *snapshots) fenced(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.dst, func(tx pgx.Tx) error {
		ours, err := store.New().CountIngested(ctx, tx, store.CountIngestedParams{Epoch: s.cp.Epoch})
		if err != nil {
			return err
		}
		if ours != 1 {
			return errFenced
		}
		return do(tx)
	})
}

// begun says that the stream cannot go on without the snapshot.
func (s *snapshots) begun() bool {
	return slices.ContainsFunc(s.pending, func(p pending) bool { return p.joined > 0 })
}

// errNotYet is a snapshot that waits for open transactions.
var errNotYet = errors.New("the snapshot waits for transactions that are open")

// take takes all of them, at one point.
func (s *snapshots) take(ctx context.Context, joined map[Table]event.LSN) error {
	repl, err := replicationConnect(ctx, s.stream.opts.SourceURL, s.stream.opts.ClientID)
	if err != nil {
		return fmt.Errorf("open a replication connection: %w", err)
	}
	defer func() { _ = repl.Close(context.WithoutCancel(ctx)) }()
	at, err := s.export(ctx, repl)
	if err != nil {
		return err
	}
	conn, err := s.stream.connectSource(ctx)
	if err != nil {
		return fmt.Errorf("connect to the source: %w", err)
	}
	defer closeConn(ctx, conn)
	tx, err := beginAt(ctx, conn, at.snapshot)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // it has only read
	_ = repl.Close(ctx)                                            // the view is ours now, and the slot holds no WAL
	for _, p := range s.pending {
		if p.joined == 0 {
			p.joined = at.point
			err := s.fenced(ctx, func(tx pgx.Tx) error {
				return store.New().JoinSnapshot(ctx, tx, store.JoinSnapshotParams{Name: p.Table.String(), Joined: int64(p.joined)})
			})
			if err != nil {
				return fmt.Errorf("begin the snapshot of %s: %w", p.Table, err)
			}
			joined[p.Table] = p.joined
		}
		if err := s.read(ctx, tx, p); err != nil {
			return fmt.Errorf("snapshot of %s: %w", p.Table, err)
		}
	}
	return nil
}

// export makes the slot and the view. Before a snapshot has begun, the stream does not wait for long.
func (s *snapshots) export(ctx context.Context, repl *pgconn.PgConn) (exported, error) {
	version, err := serverVersion(ctx, s.src)
	if err != nil {
		return exported{}, err
	}
	limited := ctx
	if !s.begun() {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, openPatience)
		defer cancel()
	}
	stop := reportWaiting(ctx, s.log, s.stream.connectSource)
	defer stop()
	at, err := exportSlot(limited, repl, version, fmt.Sprintf("%.40s_snapshot_%d", s.stream.cfg.Slot, s.cp.Epoch), temporarySlot)
	if limited.Err() != nil && ctx.Err() == nil {
		return exported{}, errNotYet
	}
	return at, err
}

// read makes events of a table's rows.
func (s *snapshots) read(ctx context.Context, tx pgx.Tx, p pending) error {
	r, about, err := s.describe(ctx, tx, p.CapturedTable)
	if err != nil {
		return err
	}
	w := &snapshotWriter{snapshots: s, pending: p, relation: r, about: about, logged: time.Now()}
	if err := tx.QueryRow(ctx, "SELECT now()").Scan(&w.at); err != nil {
		return err
	}
	w.committer = committer{
		conn: s.dst, sink: w, committed: s.stream.opts.Committed, epoch: s.cp.Epoch, beside: true,
		metrics: s.stream.metrics, log: s.log,
	}
	s.log.Info("taking a snapshot", "table", p.Table.String(), "rows_about", about, "joins_at", p.joined.String())
	if err := w.copyRows(ctx, tx.Conn().PgConn()); err != nil {
		return s.refused(err, p.Table)
	}
	err = s.fenced(ctx, func(tx pgx.Tx) error { return store.New().FinishSnapshot(ctx, tx, p.Table.String()) })
	if err != nil {
		return err
	}
	s.log.Info("snapshot taken", "table", p.Table.String(), "rows", w.read, "new_events", w.rows-p.rows)
	return nil
}

// refused says what a role lacks that may not read the table, or all of it.
func (s *snapshots) refused(err error, t Table) error {
	var said *pgconn.PgError
	if !errors.As(err, &said) || said.Code != "42501" {
		return err
	}
	role := pgx.Identifier{s.src.Config().User}.Sanitize()
	return &SetupError{
		fmt.Sprintf("the snapshot of %s: %s", t, said.Message),
		fmt.Sprintf("GRANT SELECT ON %s TO %s; -- and where it has row-level security: ALTER ROLE %[2]s BYPASSRLS;", t.SQL(), role),
	}
}

// describe is the table as the stream would announce it.
func (s *snapshots) describe(ctx context.Context, tx pgx.Tx, t CapturedTable) (*relation, int64, error) {
	version, err := serverVersion(ctx, tx.Conn())
	if err != nil {
		return nil, 0, err
	}
	rows, _ := tx.Query(ctx, `
		SELECT a.attname::text, a.atttypid FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		  JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
		   AND (a.attname = ANY ($3) OR coalesce(cardinality($3::text[]), 0) = 0
		        AND (a.attgenerated = '' OR a.attgenerated = 's' AND $4))
		 ORDER BY a.attnum`, t.Table.Schema, t.Table.Name, t.Columns, version >= generatedVersion)
	type column struct {
		Name string
		Type uint32
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil {
		return nil, 0, err
	}
	types := newTypeBook(func(ask questions) error { return ask(ctx, tx.Conn()) })
	r := &relation{table: t}
	for _, c := range columns {
		if err := types.learn([]uint32{c.Type}); err != nil {
			return nil, 0, err
		}
		r.columns = append(r.columns, tableColumn{name: c.Name, key: jsonKey(c.Name), typ: types.known[c.Type]})
	}
	r.id, r.tenant = r.column(t.ID), r.column(t.Tenant)
	var about int64
	err = tx.QueryRow(ctx, `
		SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
		  JOIN pg_class c ON c.oid = r.oid AND r.relkind = 'r'
		       OR c.relkind = 'r' AND c.oid IN (SELECT relid FROM pg_partition_tree(r.oid))
		 WHERE n.nspname = $1 AND r.relname = $2`, t.Table.Schema, t.Table.Name).Scan(&about)
	return r, about, err
}

// skip has the stream leave out all changes of tables whose snapshot waits: it will have them.
func (s *snapshots) skip(joined map[Table]event.LSN) {
	for _, p := range s.pending {
		joined[p.Table] = math.MaxUint64
	}
}
