package capture

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"
)

// startReplication takes the slot: PostgreSQL lets one walsender have it, which makes it the mutex between workers. The URL
// may lead elsewhere by now, so it is this connection that has to be at the server that was judged.
func (s *Stream) startReplication(ctx context.Context, start *start) (*pgconn.PgConn, error) {
	repl, err := replicationConnect(ctx, s.opts.SourceURL, s.opts.ClientID)
	if err != nil {
		return nil, fmt.Errorf("open a replication connection: %w", err)
	}
	if err = start.leadsTo(ctx, repl); err == nil {
		start.written, err = readTimelines(ctx, repl, start.id.System, start.id.Timeline)
	}
	if err != nil {
		_ = repl.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	from := pglogrepl.LSN(start.checkpoint.LSN)
	err = pglogrepl.StartReplication(ctx, repl, string(s.cfg.Slot), from, pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication,
		PluginArgs: []string{
			"proto_version '1'", fmt.Sprintf("publication_names '%s'", s.cfg.publications(start.tables)), "messages 'true'",
		},
	})
	if err == nil {
		return repl, nil
	}
	_ = repl.Close(context.WithoutCancel(ctx))
	if hasCode(err, "55006") { // object_in_use
		return nil, errStandby
	}
	return nil, fmt.Errorf("start replication: %w", err)
}

// leadsTo asks a connection whether it is to the server that was judged.
func (s start) leadsTo(ctx context.Context, repl *pgconn.PgConn) error {
	var there sight
	if err := there.identifySource(ctx, repl); err != nil {
		return err
	}
	if there.System != s.id.System || there.Timeline != s.id.Timeline || there.Server.differs(s.id.Server) ||
		there.written < s.checkpoint.LSN {
		return fmt.Errorf("source.url leads to another server: %w", errChanged)
	}
	return nil
}

// take makes us the owner of the stream, whose slot we have. The epoch comes first: whoever had the stream before us is
// fenced from there on, so the checkpoint cannot move under us. And then the slot is looked at once more: until we had it,
// anybody could move it, and asked for an older position the server silently starts at the slot's own.
func (s *Stream) take(ctx context.Context, src, dst *pgx.Conn, start start) (*checkpoint, error) {
	cp, err := takeCheckpoint(ctx, dst, s.opts.ClientID, start)
	if err != nil {
		return nil, err
	}
	slot, err := readSlot(ctx, src, s.cfg)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the slot: %w", err)
	case slot == nil:
		return nil, fmt.Errorf("slot %s is gone: %w", s.cfg.Slot, errChanged)
	case slot.Confirmed > cp.Position.LSN:
		return nil, fmt.Errorf("slot %s was moved to %s: %w", s.cfg.Slot, slot.Confirmed, errChanged)
	case cp.readsTables() != start.tables:
		return nil, fmt.Errorf("the publications to be read are others: %w", errChanged)
	}
	return cp, nil
}

// own takes the stream and reads it.
func (s *Stream) own(ctx context.Context, src, dst *pgx.Conn, repl *pgconn.PgConn, start start) error {
	timeout, err := senderTimeout(ctx, src)
	if err != nil {
		return err
	}
	cp, err := s.take(ctx, src, dst, start)
	if err != nil {
		return err
	}
	s.hear(time.Now())
	s.metrics.stored.Store(uint64(start.confirmed))
	s.metrics.storedAt.Store(cp.Stored.UnixNano())
	tables, err := s.takeTables(ctx, src, dst, cp)
	if err != nil {
		return err
	}
	s.setHealth(Streaming, nil)
	defer s.setHealth(Connecting, nil)
	if before := start.owner; before != "" && before != s.opts.ClientID {
		s.metrics.takeovers.WithLabelValues(s.reasonOf(before)).Inc()
	}
	s.log.Info("reading the stream", "slot", s.cfg.Slot, "position", cp.Position.String(), "epoch", cp.Epoch)

	copied, err := copiedToStandbys(ctx, src, s.cfg.Slot)
	if err != nil {
		return err
	}
	stored := &confirmations{ready: confirmed(start.confirmed)}
	var queued atomic.Int32
	batches, ready := make(chan *batch), make(chan *batch)
	reader := stream{
		cfg: s.cfg, conn: repl, dec: s.decoder(ctx, start.written, tables.read), after: cp.Position, batches: batches,
		stored: stored, queued: &queued, turn: tables.turn, every: statusEvery(timeout), rarely: rarely(timeout),
		silence: silenceLimit(timeout, s.silences), most: s.opts.BatchChanges, metrics: s.metrics,
	}
	snapshotWaits := false
	if tables.read {
		if snapshotWaits, err = s.takeSnapshots(ctx, src, dst, cp, &reader); err != nil {
			return err
		}
	}
	writer := committer{
		conn: dst, sink: s.opts.Sink, committed: s.opts.Committed, epoch: cp.Epoch, pos: cp.Position, stored: stored,
		queued: &queued, patient: copied && cp.System == cp.Home.System, metrics: s.metrics, log: s.log,
	}
	if err := writer.reached(ctx, cp.Position); err != nil {
		return err
	}
	beat := heartbeat{
		conn: src, slot: s.cfg.Slot, every: s.cfg.Heartbeat.Std(), heard: s.hear, limit: s.cfg.Lease.Std(), metrics: s.metrics,
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return reader.run(ctx) })
	group.Go(func() error { return s.prepare(ctx, batches, ready) })
	group.Go(func() error { return writer.run(ctx, ready) })
	group.Go(func() error { return beat.run(ctx) })
	if tables.pending {
		group.Go(func() error { return s.awaitOlder(ctx, s.tablesAfter, "the tables") })
	}
	if snapshotWaits {
		group.Go(func() error { return s.awaitOlder(ctx, s.snapshotAfter, "the snapshot") })
	}
	err = group.Wait()
	s.learn(err, cp.Epoch, writer.pos != cp.Position)
	return err
}

// prepare has the sink prepare each batch while the one before is committed, and passes it on.
func (s *Stream) prepare(ctx context.Context, batches <-chan *batch, ready chan<- *batch) error {
	for {
		var b *batch
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b = <-batches:
		}
		if s.opts.Prepare != nil && len(b.changes) > 0 {
			b.prepared = s.opts.Prepare(ctx, b.changes)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ready <- b:
		}
	}
}

// decoder is one for the publications that are read.
func (s *Stream) decoder(ctx context.Context, written timelines, tables bool) *decoder {
	dec := newDecoder(s.cfg, written, sessions(ctx, s.connectSource))
	dec.stray = s.stray
	if !tables { // the change log's publication may hold some of them, too
		dec.cfg.Tables = nil
	}
	return dec
}

// learn keeps what the next attempt has to know of how this one ended.
func (s *Stream) learn(err error, epoch int64, moved bool) {
	if errors.Is(err, errTooYoung) {
		s.blind = epoch
	}
	if errors.Is(err, errSilent) && !moved {
		s.silences++
	} else {
		s.silences = 0
	}
}
