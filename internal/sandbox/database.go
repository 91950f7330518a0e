package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/db/migrations"
)

// dropTimeout bounds a drop, which waits for walsenders to end.
const dropTimeout = 30 * time.Second

// Database creates a migrated database of its own for the caller: the copy of a template that is migrated once a
// server. drop ends every session in it and drops its replication slots, then the database.
func (p *Postgres) Database(ctx context.Context) (databaseURL string, drop func(context.Context) error, err error) {
	template, err := p.migrated(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("migrate the template database: %w", err)
	}
	return p.copied(ctx, template)
}

// EmptyDatabase is like Database, but nothing has been migrated.
func (p *Postgres) EmptyDatabase(ctx context.Context) (databaseURL string, drop func(context.Context) error, err error) {
	return p.copied(ctx, "template0")
}

// migrated returns the template's name. The first caller makes it while the others wait.
func (p *Postgres) migrated(ctx context.Context) (string, error) {
	p.templating.Lock()
	defer p.templating.Unlock()
	if p.template != "" {
		return p.template, nil
	}
	name, err := p.create(ctx, "template0")
	if err != nil {
		return "", err
	}
	err = migrations.Up(ctx, p.URL(name), func(string) {})
	if err == nil {
		// A session in the template would make the copies fail.
		err = p.execute(ctx, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false")
	}
	if err != nil {
		return "", errors.Join(err, p.drop(ctx, name))
	}
	p.template = name
	return name, nil
}

func (p *Postgres) copied(ctx context.Context, template string) (string, func(context.Context) error, error) {
	name, err := p.create(ctx, template)
	if err != nil {
		return "", nil, err
	}
	return p.URL(name), func(ctx context.Context) error { return p.drop(ctx, name) }, nil
}

// create makes a database with a random name, which needs no quoting.
func (p *Postgres) create(ctx context.Context, template string) (string, error) {
	name := "weir_" + strings.ToLower(rand.Text()[:12])
	p.remember(name)
	if err := p.execute(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		return "", errors.Join(fmt.Errorf("create database: %w", err), p.drop(ctx, name))
	}
	return name, nil
}

// drop may be repeated. It also works, within its own time limit, when ctx has ended.
func (p *Postgres) drop(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), dropTimeout,
		fmt.Errorf("not done after %s", dropTimeout))
	defer cancel()
	conn, err := p.connect(ctx)
	if err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	defer conn.Close(ctx)
	if err := dropWithSlots(ctx, conn, name); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	p.forget(name)
	return nil
}

func dropWithSlots(ctx context.Context, conn *pgx.Conn, name string) error {
	// Nobody may come back: neither to the database nor, by a reconnecting walsender, to its slots.
	_, err := conn.Exec(ctx, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false")
	if isCode(err, "3D000") { // invalid_catalog_name: it is gone, or never was
		return nil
	}
	if err != nil {
		return err
	}
	if err := dropSlots(ctx, conn, name); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
	return err
}

// dropSlots ends the walsenders of the database's slots and drops the slots, until there is none.
func dropSlots(ctx context.Context, conn *pgx.Conn, database string) error {
	for {
		_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
			WHERE database = $1 AND active_pid IS NOT NULL`, database)
		if err != nil {
			return fmt.Errorf("end the walsenders: %w", err)
		}
		_, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
			WHERE database = $1`, database)
		if err == nil {
			return nil
		}
		// object_in_use: the walsender has not ended yet. undefined_object: a temporary slot went with its session.
		if !isCode(err, "55006") && !isCode(err, "42704") {
			return fmt.Errorf("drop the replication slots: %w", err)
		}
		if stop := pause(ctx, 20*time.Millisecond); stop != nil {
			return errors.Join(err, stop)
		}
	}
}

func isCode(err error, code string) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == code
}

// execute runs a statement in the database from which others are created.
func (p *Postgres) execute(ctx context.Context, statement string) error {
	conn, err := p.connect(ctx)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}

func (p *Postgres) connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, p.base.String())
}

func (p *Postgres) remember(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made[name] = struct{}{}
}

func (p *Postgres) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.made, name)
}

func (p *Postgres) left() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.made))
}
