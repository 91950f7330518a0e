package worker_test

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// writer commits change-log rows and goes on after the server was restarted.
type writer struct {
	ctx  context.Context
	url  string
	conn *pgx.Conn
	done int // rows that were (as far as we know) committed
	mark int
}

func (w *writer) close() {
	if w.conn != nil {
		_ = w.conn.Close(context.WithoutCancel(w.ctx))
	}
}

// transaction commits size rows, or repeats that until it has. One in doubt is repeated, too: it counts only what it
// knows, and the change log says the rest.
func (w *writer) transaction(size int, noise bool) error {
	for tries := 0; ; tries++ {
		err := w.try(size, noise)
		if err == nil {
			w.done += size
			return nil
		}
		if !isConnectionLoss(err) || tries > 300 {
			return fmt.Errorf("write %d rows: %w", size, err)
		}
		w.close()
		w.conn = nil
		time.Sleep(100 * time.Millisecond)
	}
}

func (w *writer) try(size int, noise bool) error {
	if w.conn == nil {
		conn, err := pgx.Connect(w.ctx, w.url)
		if err != nil {
			return err
		}
		w.conn = conn
	}
	if noise {
		if err := w.rolledBack(); err != nil {
			return err
		}
	}
	return pgx.BeginFunc(w.ctx, w.conn, func(tx pgx.Tx) error {
		half := size / 2
		if err := w.insert(tx, half); err != nil {
			return err
		}
		if noise {
			if err := w.savepoint(tx); err != nil {
				return err
			}
		}
		return w.insert(tx, size-half)
	})
}

func (w *writer) insert(tx pgx.Tx, rows int) error {
	_, err := tx.Exec(w.ctx, `
		INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('n', n, 'even', n % 2 = 0)
		  FROM generate_series($1::int, $2::int) n`, w.mark+1, w.mark+rows)
	w.mark += rows
	return err
}

func (w *writer) rolledBack() error {
	tx, err := w.conn.Begin(w.ctx)
	if err != nil {
		return err
	}
	if err := w.insert(tx, 3); err != nil {
		return err
	}
	return tx.Rollback(w.ctx)
}

func (w *writer) savepoint(tx pgx.Tx) error {
	inner, err := tx.Begin(w.ctx)
	if err != nil {
		return err
	}
	if err := w.insert(inner, 2); err != nil {
		return err
	}
	return inner.Rollback(w.ctx)
}
