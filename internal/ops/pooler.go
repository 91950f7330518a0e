package ops

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// answerTime is how long something may take that costs PostgreSQL a millisecond.
const answerTime = 2 * time.Second

// another opens a further session of database.url.
func (c *checkup) another(ctx context.Context) (*pgx.Conn, error) {
	cfg := c.db.Config()
	cfg.OnNotification = nil // the copy's would hand what this session hears to the other
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open another session: %w", err)
	}
	return conn, nil
}

// notifications: a pooler in transaction mode loses them, and session settings with them.
func (c *checkup) notifications(ctx context.Context) error {
	const check = "notifications"
	if c.dbStandby { // nobody notifies there
		return nil
	}
	speaker, err := c.another(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = speaker.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.db.Exec(ctx, `LISTEN weir_doctor`); err != nil {
		return err
	}
	defer func() { _, _ = c.db.Exec(context.WithoutCancel(ctx), `UNLISTEN weir_doctor`) }()
	if _, err := speaker.Exec(ctx, `NOTIFY weir_doctor`); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	_, err = c.db.WaitForNotification(wait)
	switch {
	case err == nil:
		c.ok(check)
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		c.add(check, LevelWarning, "none arrives: a pooler in transaction mode seems to be in between, so deliveries start up to "+
			"a second late", "-- let database.url name the server itself, or a pool in session mode")
	default:
		return err
	}
	return nil
}

// statements: a pooler in transaction mode may hand each transaction of a session to another session of the server, which
// does not know what was prepared. So one prepares a statement, another holds a transaction (and most likely the
// server's session of the first), and the first executes.
func (c *checkup) statements(ctx context.Context) error {
	const check = "prepared statements"
	const mend = "-- let database.url name the server itself, a pool in session mode, or PgBouncer 1.21 or newer with " +
		"max_prepared_statements"
	first, err := c.another(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = first.Close(context.WithoutCancel(ctx)) }()
	second, err := c.another(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = second.Close(context.WithoutCancel(ctx)) }()

	name := "weir_doctor_" + rand.Text() // one that is left behind must not be in the way of the next checkup
	if _, err := first.PgConn().Prepare(ctx, name, `SELECT 1`, nil); err != nil {
		return err
	}
	if _, err := second.Exec(ctx, `BEGIN`); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	_, err = first.PgConn().ExecPrepared(wait, name, nil, nil, nil).Close()
	var server *pgconn.PgError
	switch {
	case err == nil:
		c.ok(check)
	case errors.As(err, &server) && (server.Code == "26000" || server.Code == "42P05"):
		c.add(check, LevelError, "a pooler in transaction mode is in between, which loses them, and a worker needs them", mend)
		_, _ = second.Exec(ctx, `DEALLOCATE `+quoted(name)) // where it was left; it fails where it is not, and so does nothing
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		c.add(check, LevelError, "one session waits while another has a transaction: a pooler in transaction mode is in between, "+
			"with a single session to the server", mend+", with as many sessions as its workers have")
	default:
		return err
	}
	return nil
}
