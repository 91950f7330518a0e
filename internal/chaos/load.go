package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// schema is the application's: entities with a version that counts their changes, and the function of the database actions. An
// entity's row is locked by who changes it, so the versions are in commit order.
const schema = `
	CREATE SCHEMA app;
	CREATE TABLE app.thing (kind text NOT NULL, id uuid PRIMARY KEY,
		version bigint NOT NULL DEFAULT 0, status text NOT NULL DEFAULT 'new');
	CREATE TABLE app.effect (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event uuid NOT NULL, by text NOT NULL,
		entity uuid, n bigint, tx text, at timestamptz NOT NULL DEFAULT clock_timestamp());
	CREATE FUNCTION app.book(message jsonb) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO app.effect (event, by, entity, n, tx)
		SELECT (message->'event'->>'id')::uuid, message->'params'->>'by', (message->'event'->>'entity_id')::uuid,
		       (message->'event'->'data'->>'n')::bigint, message->'event'->'data'->>'tx';
		IF (message->'event'->'data'->>'group')::int % 5 = 0 THEN
			PERFORM pg_sleep(0.5); -- long enough for a fault to come in between
		END IF;
		RETURN 'booked';
	END $$;
	CREATE INDEX ON core.tb_entity_change_log ((extra_metadata->>'tx'))`

var kinds = []string{"Order", "Customer", "Item"}

const (
	things    = 24 // of each kind and client
	shared    = 8  // of each kind, everybody's
	bigLeast  = 300
	bigMost   = 2000
	waitLock  = "2s"
	reconnect = 100 * time.Millisecond
	longLeast = 2 * time.Second
	longMost  = 8 * time.Second
)

// fate is what a client knows of a transaction.
type fate int

const (
	unknown fate = iota // the answer to COMMIT was lost; looked up when the server is there
	committed
	aborted
)

// sent is one transaction of a client.
type sent struct {
	tag  string
	rows int // that it was to leave in the change log
	fate fate
	// doubted: the answer to COMMIT was lost, and fate was looked up.
	doubted bool
}

// load writes until its time is over.
type load struct {
	url     string
	options Options
	shared  []thing
	clients []*client
	changes atomic.Int64 // that are known to be committed
}

type thing struct {
	kind string
	id   uuid.UUID
}

// newLoad makes the clients and the entities, which are the same for a seed.
func newLoad(ctx context.Context, databaseURL string, o Options) (*load, error) {
	l := &load{url: databaseURL, options: o}
	l.shared = someThings(o.Seed, "shared", shared)
	all := slices.Clone(l.shared)
	for i := range o.Clients {
		c := &client{
			load: l, number: i, rnd: rand.New(rand.NewPCG(o.Seed, uint64(i)+1)), own: someThings(o.Seed, fmt.Sprint(i), things),
		}
		l.clients = append(l.clients, c)
		all = append(all, c.own...)
	}
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, schema); err != nil {
		return nil, err
	}
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"app", "thing"}, []string{"kind", "id"},
		pgx.CopyFromSlice(len(all), func(i int) ([]any, error) { return []any{all[i].kind, all[i].id}, nil }))
	return l, err
}

func someThings(seed uint64, whose string, n int) []thing {
	var all []thing
	for _, kind := range kinds {
		for i := range n {
			all = append(all, thing{kind, uuid.NewSHA1(uuid.Nil, fmt.Appendf(nil, "%d %s %s %d", seed, whose, kind, i))})
		}
	}
	return all
}

// run writes for a time, and until every transaction's fate is known.
func (l *load) run(ctx context.Context) error {
	writing, stop := context.WithTimeout(ctx, l.options.For)
	defer stop()
	errs := make([]error, len(l.clients))
	var running sync.WaitGroup
	for i, c := range l.clients {
		running.Go(func() { errs[i] = c.run(ctx, writing) })
	}
	running.Wait()
	return errors.Join(errs...)
}

// sent are all clients' transactions, once run has returned.
func (l *load) sent() []sent {
	var all []sent
	for _, c := range l.clients {
		all = append(all, c.sent...)
	}
	return all
}

// client is one connection of the application.
type client struct {
	load   *load
	number int
	rnd    *rand.Rand
	own    []thing
	conn   *pgx.Conn
	sent   []sent
	groups int64
}

func (c *client) run(ctx, writing context.Context) error {
	defer c.hangUp(ctx)
	for writing.Err() == nil {
		s, err := c.transaction(ctx, writing)
		if err != nil && !transient(err) {
			return fmt.Errorf("client %d: %w", c.number, err)
		}
		if s.doubted = s.fate == unknown; s.doubted {
			if s.fate, err = c.lookUp(ctx, s); err != nil {
				return fmt.Errorf("client %d: look up %s: %w", c.number, s.tag, err)
			}
		}
		c.sent = append(c.sent, s)
		if s.fate == committed {
			c.load.changes.Add(int64(s.rows))
		}
		c.pace(writing, s.rows)
	}
	return nil
}

// pace keeps the rate: a transaction takes the time of its rows. A big one does not make a long pause.
func (c *client) pace(writing context.Context, rows int) {
	wait := time.Duration(float64(max(1, rows)) * float64(len(c.load.clients)) / float64(c.load.options.Rate) * float64(time.Second))
	wait = min(time.Duration(float64(wait)*(0.5+c.rnd.Float64())), 3*time.Second)
	select {
	case <-time.After(wait):
	case <-writing.Done():
	}
}

func (c *client) hangUp(ctx context.Context) {
	if c.conn != nil {
		_ = c.conn.Close(context.WithoutCancel(ctx))
		c.conn = nil
	}
}

// transaction makes one of some kind. fate is unknown when the answer to COMMIT was lost.
func (c *client) transaction(ctx, writing context.Context) (sent, error) {
	s := sent{tag: fmt.Sprintf("c%d-%d", c.number, len(c.sent)), fate: aborted}
	t := c.draw(s.tag)
	if err := c.connect(ctx); err != nil {
		select { // the server is away
		case <-time.After(reconnect):
		case <-ctx.Done():
			return s, ctx.Err()
		}
		return s, err
	}
	err := func() error {
		tx, err := c.conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		if err := t.write(ctx, writing, tx); err != nil {
			return err
		}
		s.rows = t.rows
		if t.rollBack {
			return tx.Rollback(ctx)
		}
		s.fate = unknown
		if err := tx.Commit(ctx); err != nil {
			var refused *pgconn.PgError
			if errors.As(err, &refused) && refused.Severity == "ERROR" {
				s.fate = aborted
			}
			return err
		}
		s.fate = committed
		return nil
	}()
	if err != nil && c.conn.IsClosed() {
		c.hangUp(ctx)
	}
	return s, err
}

func (c *client) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.load.url)
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "SET lock_timeout = '"+waitLock+"'"); err != nil {
		_ = conn.Close(ctx)
		return err
	}
	c.conn = conn
	return nil
}

// lookUp asks the change log what became of a transaction.
func (c *client) lookUp(ctx context.Context, s sent) (fate, error) {
	for {
		var rows int
		err := c.connect(ctx)
		if err == nil {
			// The answer was lost because the server went down: of its sessions none is left that could still commit.
			err = c.conn.QueryRow(ctx, `SELECT count(*) FROM core.tb_entity_change_log WHERE extra_metadata->>'tx' = $1`, s.tag).
				Scan(&rows)
		}
		switch {
		case err == nil && rows == 0:
			return aborted, nil
		case err == nil:
			return committed, nil // as many as it should be: the checker counts
		case !transient(err):
			return unknown, err
		}
		c.hangUp(ctx)
		select {
		case <-time.After(reconnect):
		case <-ctx.Done():
			return unknown, ctx.Err()
		}
	}
}

// transient says that an error is the server's being away, or a lock's.
func transient(err error) bool {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return !errors.Is(err, context.Canceled)
	}
	class := refused.Code[:min(2, len(refused.Code))]
	return strings.HasPrefix(refused.Code, "57P") || class == "08" || class == "40" || refused.Code == "55P03" ||
		refused.Code == "53300"
}
