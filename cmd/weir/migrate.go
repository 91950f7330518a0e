package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/event"
)

func newMigrateCommand(a *app) *cobra.Command {
	up := &cobra.Command{
		Use:   "up",
		Short: "Bring the database to this program's schema version",
		Long: `Apply the missing migrations to the database, and create or complete the change log core.tb_entity_change_log in the
source, unless source.change_log names another table or none. Several may run at once: one migrates, the others wait for it.`,
		Args: noArguments,
		RunE: a.does(a.migrateUp),
	}
	var yes bool
	down := &cobra.Command{
		Use:   "down",
		Short: "Remove schema weir with all events and jobs",
		Long: `Take everything back that migrate up has made in schema weir: checkpoint, events, jobs, dead letters. Schema core
with the change log belongs to the application and stays as it is.`,
		Example: "  weir migrate down --yes",
		Args:    noArguments,
		RunE:    a.does(func(ctx context.Context, _ []string) error { return a.migrateDown(ctx, yes) }),
	}
	down.Flags().BoolVar(&yes, "yes", false, "do not ask")
	status := &cobra.Command{
		Use:   "status",
		Short: "List the migrations and whether the database has them",
		Args:  noArguments,
		RunE:  a.does(a.migrateStatus),
	}
	return group("migrate", "Prepare the database", "", up, down, status)
}

// migrated is the result of up and down.
type migrated struct {
	Steps []string `json:"steps"` // what was applied or reverted
	// Source says that the change log in the other database was looked after.
	Source bool `json:"source"`
}

func (a *app) migrateUp(ctx context.Context, _ []string) error {
	s, err := a.settings(ctx)
	if err != nil {
		return err
	}
	result := migrated{Steps: []string{}}
	err = migrations.Up(ctx, s.database.Value(), a.step(&result))
	if err != nil {
		return unreachable(err, s.database, s.from)
	}
	if s.capture.ChangeLog.IsDefault() { // no other is ours to install
		a.verbosef("completing the change log in the source")
		if err := migrations.InstallChangeLog(ctx, s.source.Value(), a.step(&result)); err != nil {
			return fmt.Errorf("source: %w", unreachable(err, s.source, s.sourceFrom()))
		}
		result.Source = s.source != s.database
	}
	return a.print(result, func(w io.Writer) {
		if len(result.Steps) == 0 {
			fmt.Fprintf(w, "nothing to do: the database is at version %d\n", migrations.Version)
		}
		if s.capture.ChangeLog.IsDefault() {
			fmt.Fprintln(w, "the change log in the source is complete")
		}
	})
}

// step collects what happened and, for people, tells it at once.
func (a *app) step(result *migrated) func(string) {
	return func(line string) {
		result.Steps = append(result.Steps, line)
		if a.flags.format == formatText {
			_, _ = fmt.Fprintln(a.stdout, line)
		}
	}
}

func (a *app) migrateDown(ctx context.Context, yes bool) error {
	s, err := a.settings(ctx)
	if err != nil {
		return err
	}
	if err := a.confirm(ctx, yes, "remove schema weir of %s with all its events, jobs and dead letters", s.database); err != nil {
		return err
	}
	result := migrated{Steps: []string{}}
	if err := migrations.Down(ctx, s.database.Value(), a.step(&result)); err != nil {
		return unreachable(err, s.database, s.from)
	}
	a.mentionSlot(ctx, s)
	return a.print(result, func(w io.Writer) {
		if len(result.Steps) == 0 {
			fmt.Fprintln(w, "nothing to do: the database has no schema weir")
		}
	})
}

// mentionSlot reminds of the slot, which nobody reads any more and which holds WAL until the disk is full.
func (a *app) mentionSlot(ctx context.Context, s *settings) {
	source, err := a.connectSource(ctx, s)
	if err != nil {
		a.verbosef("source not looked at: %v", err)
		return
	}
	defer closeConn(ctx, source)
	var exists bool
	err = source.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`,
		string(s.capture.Slot)).Scan(&exists)
	if err == nil && exists {
		a.notef("replication slot %s still holds WAL; once no worker needs it: SELECT pg_drop_replication_slot('%[1]s');",
			s.capture.Slot)
	}
}

// unreachable makes a failed connection what the other commands report.
func unreachable(err error, url config.URL, from string) error {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	return &connectionError{url: url, from: from, err: connect}
}

// migrationList is the output of migrate status.
type migrationList struct {
	Current    bool             `json:"current"`    // nothing is missing
	Migrations []migrationState `json:"migrations"` // in their order
}

type migrationState struct {
	Version   int64      `json:"version"`    // of the schema
	Name      string     `json:"name"`       // of the file
	AppliedAt event.Time `json:"applied_at"` // null while it is pending
}

func (a *app) migrateStatus(ctx context.Context, _ []string) error {
	s, err := a.settings(ctx)
	if err != nil {
		return err
	}
	all, err := migrations.Status(ctx, s.database.Value())
	if err != nil {
		return unreachable(err, s.database, s.from)
	}
	list := migrationList{Current: true, Migrations: []migrationState{}}
	for _, m := range all {
		list.Current = list.Current && !m.AppliedAt.IsZero()
		list.Migrations = append(list.Migrations, migrationState{m.Version, m.Name, event.Time(m.AppliedAt)})
	}
	return a.print(list, func(w io.Writer) {
		t := table{header: []string{"VERSION", "NAME", "APPLIED"}}
		for _, m := range list.Migrations {
			applied := c(agoAndWhen(time.Now(), m.AppliedAt))
			if m.AppliedAt == (event.Time{}) {
				applied = cell{"pending", yellow}
			}
			t.add(c(strconv.FormatInt(m.Version, 10)), c(m.Name), applied)
		}
		t.write(a, w)
		if !list.Current {
			fmt.Fprintln(w, "\nApply what is pending with: weir migrate up")
		}
	})
}
