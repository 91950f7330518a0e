package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fraiseql/weir/internal/capture"
)

// column is one of the change log's, as format_type names its type. Types of which every value has the same text are as
// good.
type column struct {
	name, typ string
	also      []string
}

// changeLogColumns are those of spec and migrations; a test compares them with what the migrations make.
func changeLogColumns() []column {
	texts := []string{"character varying", "citext"}
	integers := []string{"integer", "smallint"}
	return []column{
		{"pk_entity_change_log", "bigint", integers},
		{"id", "uuid", nil},
		{"object_type", "text", texts},
		{"modification_type", "text", texts},
		{"object_id", "uuid", nil},
		{"object_data", "jsonb", []string{"json"}},
		{"object_data_before", "jsonb", []string{"json"}},
		{"updated_fields", "text[]", []string{"character varying[]"}},
		{"cascade", "jsonb", []string{"json"}},
		{"tenant_id", "uuid", nil},
		{"fk_customer_org", "bigint", integers},
		{"fk_contact", "bigint", integers},
		{"actor_type", "text", texts},
		{"acting_for", "uuid", nil},
		{"schema_version", "text", texts},
		{"trace_id", "text", texts},
		{"trace_context", "jsonb", []string{"json"}},
		{"started_at", "timestamp with time zone", nil},
		{"duration_ms", "integer", []string{"bigint", "smallint"}},
		{"commit_time", "timestamp with time zone", nil},
		{"seq", "bigint", integers},
		{"change_status", "text", texts},
		{"extra_metadata", "jsonb", []string{"json"}},
		{"created_at", "timestamp with time zone", nil},
		{"nats_published_at", "timestamp with time zone", nil},
		{"nats_event_id", "uuid", nil},
	}
}

// columns finds missing and mistyped columns of the change log. Those without which nothing works are preflight's.
func (c *checkup) columns(ctx context.Context) error {
	const check = "change log columns"
	log := *c.cfg.ChangeLog
	rows, _ := c.source.Query(ctx, `
		SELECT a.attname::text, format_type(a.atttypid, NULL)
		  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped`, log.Schema, log.Name)
	types := map[string]string{}
	var name, typ string
	_, err := pgx.ForEachRow(rows, []any{&name, &typ}, func() error { types[name] = typ; return nil })
	if err != nil {
		return fmt.Errorf("check %s: %w", check, err)
	}
	if len(types) == 0 {
		return nil // none is wanted, or preflight has said that there is no table
	}
	var missing, mend []string
	sound := true
	for _, want := range changeLogColumns() {
		switch have, ok := types[want.name]; {
		case !ok:
			missing = append(missing, want.name)
			mend = append(mend, fmt.Sprintf("ADD COLUMN %s %s", quoted(want.name), want.typ))
		case have != want.typ && !slices.Contains(want.also, have):
			sound = false
			c.add(check, LevelWarning, fmt.Sprintf("%s is %s, expected %s", want.name, have, want.typ), fmt.Sprintf(
				"ALTER TABLE %s ALTER COLUMN %s TYPE %s USING %[2]s::text::%[3]s;", log.SQL(), quoted(want.name), want.typ))
		}
	}
	if len(missing) > 0 {
		sound = false
		c.add(check, LevelWarning, "missing: "+strings.Join(missing, ", "), c.complete(log, mend))
	}
	if sound {
		c.ok(check)
	}
	return nil
}

// complete is how missing columns come into the change log: the migrations know the one table that they install.
func (c *checkup) complete(log capture.Table, add []string) string {
	if log == *(capture.Config{}).WithDefaults().ChangeLog {
		return "weir migrate up"
	}
	return fmt.Sprintf("ALTER TABLE %s %s;", log.SQL(), strings.Join(add, ", "))
}

// readable reads the change log as the worker does when it reads a row again: a policy that hides rows must be an error.
func (c *checkup) readable(ctx context.Context) error {
	const check = "row-level security"
	log := *c.cfg.ChangeLog
	if log == (capture.Table{}) {
		return nil
	}
	var role string
	if err := c.source.QueryRow(ctx, `SELECT current_user::text`).Scan(&role); err != nil {
		return fmt.Errorf("check %s: %w", check, err)
	}
	err := pgx.BeginTxFunc(ctx, c.source, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL row_security = off`); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "SELECT FROM "+log.SQL()+" LIMIT 1")
		return err
	})
	var refused *pgconn.PgError
	switch {
	case err == nil:
		c.ok(check)
	case capture.NotMigrated(err): // there is no table, as said
	case errors.As(err, &refused) && refused.Code == "42501" && strings.Contains(refused.Message, "row-level security"):
		c.add(check, LevelError, fmt.Sprintf("role %s is subject to policies of %s: rows could be hidden from it", role, log),
			fmt.Sprintf("ALTER ROLE %s BYPASSRLS;", quoted(role)))
	case errors.As(err, &refused) && refused.Code == "42501":
		c.add(check, LevelError, fmt.Sprintf("role %s may not read %s", role, log), fmt.Sprintf(
			"GRANT USAGE ON SCHEMA %s TO %s; GRANT SELECT ON %s TO %[2]s;", quoted(log.Schema), quoted(role), log.SQL()))
	default:
		return fmt.Errorf("check %s: %w", check, err)
	}
	return nil
}
