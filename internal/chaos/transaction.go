package chaos

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// transaction is what a client is going to do, drawn before it is done.
type transaction struct {
	tag      string
	steps    []step
	big      int // rows of a big one, which are of entities of their own
	rollBack bool
	open     time.Duration // how long it stays open in the middle
	rows     int           // that are to stay; counted as they are written
}

// step is one change, or a group of them behind a savepoint.
type step struct {
	thing   thing
	verb    string // of the change log
	bad     bool   // no event can be made of it
	status  string
	total   string
	poison  bool
	message bool   // something in the WAL that is no change
	group   int64  // of dedup
	inner   []step // behind a savepoint
	undone  bool   // the savepoint is rolled back
}

// document is object_data. Its numbers are texts, whose digits are to survive.
type document struct {
	N       int64       `json:"n"`
	Tx      string      `json:"tx"`
	Status  string      `json:"status"`
	Total   json.Number `json:"total"`
	Group   int64       `json:"group"`
	Poison  bool        `json:"poison,omitempty"`
	Aborted bool        `json:"aborted,omitempty"`
}

var statuses = []string{"new", "paid", "shipped", "returned"}

// draw decides on the next transaction.
func (c *client) draw(tag string) *transaction {
	t := &transaction{tag: tag, rollBack: c.rnd.IntN(12) == 0}
	switch roll := c.rnd.IntN(300); {
	case roll == 0:
		t.big = bigLeast + c.rnd.IntN(bigMost-bigLeast)
		return t
	case roll < 4:
		t.open = longLeast + time.Duration(c.rnd.Int64N(int64(longMost-longLeast)))
	}
	for range 1 + c.rnd.IntN(5) {
		if c.rnd.IntN(8) > 0 {
			t.steps = append(t.steps, c.step(t.open > 0))
			continue
		}
		savepoint := step{undone: c.rnd.IntN(2) == 0}
		for range 1 + c.rnd.IntN(3) {
			savepoint.inner = append(savepoint.inner, c.step(t.open > 0))
		}
		t.steps = append(t.steps, savepoint)
	}
	// Locks are taken in one order, so that clients wait for each other seldom and in no circle.
	slices.SortStableFunc(t.steps, func(a, b step) int {
		return bytes.Compare(a.first(), b.first())
	})
	return t
}

func (s step) first() []byte {
	if len(s.inner) > 0 {
		return s.inner[0].thing.id[:]
	}
	return s.thing.id[:]
}

// step draws one change. A transaction that stays open keeps to the client's own entities.
func (c *client) step(own bool) step {
	of := c.own
	if !own && c.rnd.IntN(4) == 0 {
		of = c.load.shared
	}
	c.groups++
	s := step{
		thing: of[c.rnd.IntN(len(of))], status: statuses[c.rnd.IntN(len(statuses))],
		total: fmt.Sprintf("%d.%02d0", c.rnd.IntN(1000), c.rnd.IntN(100)), poison: c.rnd.IntN(100) == 0,
		group: c.groups / 4, message: c.rnd.IntN(15) == 0,
	}
	switch roll := c.rnd.IntN(20); {
	case roll < 6:
		s.verb = "INSERT"
	case roll < 16:
		s.verb = cmp.Or([]string{"UPDATE", "update"}[c.rnd.IntN(2)])
	case roll < 18:
		s.verb = "DELETE"
	default:
		s.verb = "NOOP"
	}
	if c.rnd.IntN(60) == 0 {
		s.bad, s.verb = true, "UPSERT"
	}
	return s
}

// write does what was drawn. rows counts what is going to stay.
func (t *transaction) write(ctx, writing context.Context, tx pgx.Tx) error {
	if t.big > 0 {
		return t.writeBig(ctx, tx)
	}
	for i, s := range t.steps {
		if i == len(t.steps)/2 && t.open > 0 {
			select { // long, but not longer than the load
			case <-time.After(t.open):
			case <-writing.Done():
			}
		}
		if err := t.do(ctx, tx, s); err != nil {
			return err
		}
	}
	return nil
}

func (t *transaction) do(ctx context.Context, tx pgx.Tx, s step) error {
	if s.inner == nil {
		return t.change(ctx, tx, s, t.rollBack)
	}
	inner, err := tx.Begin(ctx)
	if err != nil {
		return err
	}
	for _, one := range s.inner {
		if err := t.change(ctx, inner, one, t.rollBack || s.undone); err != nil {
			return err
		}
	}
	if s.undone {
		return inner.Rollback(ctx)
	}
	return inner.Commit(ctx)
}

const insertRow = `INSERT INTO core.tb_entity_change_log
	(object_type, modification_type, object_id, object_data, object_data_before, updated_fields, extra_metadata)
	VALUES ($1, $2, $3, $4, $5, $6, jsonb_build_object('tx', $7::text))`

// change writes the entity and its row of the change log.
func (t *transaction) change(ctx context.Context, tx pgx.Tx, s step, aborted bool) error {
	var version int64
	var status string
	err := tx.QueryRow(ctx, `SELECT version, status FROM app.thing WHERE id = $1 FOR NO KEY UPDATE`, s.thing.id).
		Scan(&version, &status)
	if err != nil {
		return err
	}
	doc := document{
		N: version + 1, Tx: t.tag, Status: s.status, Total: json.Number(s.total), Group: s.group, Poison: s.poison, Aborted: aborted,
	}
	was := doc
	was.N, was.Status = version, status
	var before, after any = nil, doc
	switch s.verb {
	case "UPDATE", "update":
		before = was
	case "DELETE":
		before, after = doc, nil
	}
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE app.thing SET version = version + 1, status = $2 WHERE id = $1`, s.thing.id, s.status)
	if s.message {
		batch.Queue(`SELECT pg_logical_emit_message(true, 'app', $1)`, "aborted or not, nobody's business")
		batch.Queue(`SELECT pg_logical_emit_message(false, 'app', 'at once')`)
	}
	batch.Queue(insertRow, s.thing.kind, s.verb, s.thing.id, after, before, []string{"status"}, t.tag)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	if !aborted {
		t.rows++
	}
	return nil
}

// writeBig writes many rows at once.
func (t *transaction) writeBig(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, extra_metadata)
		SELECT (ARRAY['Order', 'Customer', 'Item'])[1 + n % 3], 'INSERT', gen_random_uuid(),
		       jsonb_build_object('n', 1, 'tx', $1::text, 'status', 'new', 'total', n % 1000, 'group', n, 'aborted', $3::boolean),
		       jsonb_build_object('tx', $1::text)
		  FROM generate_series(1, $2::int) n`, t.tag, t.big, t.rollBack)
	if err == nil && !t.rollBack {
		t.rows = t.big
	}
	return err
}

// marker commits one change that no observer wants, the last of a run, and returns its id.
func marker(ctx context.Context, conn *pgx.Conn) (id uuid.UUID, err error) {
	err = conn.QueryRow(ctx, `
		INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data, extra_metadata)
		VALUES ('Marker', 'INSERT', gen_random_uuid(), '{"n": 1}', '{"tx": "marker"}') RETURNING id`).Scan(&id)
	return id, err
}
