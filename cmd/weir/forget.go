package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/ops"
)

// forgetting is whose data is to be removed, and how.
type forgetting struct {
	entity, id             string
	dryRun, changeLog, yes bool
}

func newForgetCommand(a *app) *cobra.Command {
	var f forgetting
	cmd := &cobra.Command{
		Use:   "forget --entity TYPE --id ID",
		Short: "Remove an entity's events, outcomes, jobs and documents for good",
		Long: `Remove an entity's events, outcomes, jobs of all states (deliveries that are not finished are not made any more), dead
letters and documents, in PostgreSQL and in Elasticsearch, and say how much it was. A receipt stays, in weir.forgotten: type and
id of the entity, when, by whom, and how much. On a terminal it asks before.

What is in the change log stays, too, unless --change-log says otherwise, and so does what others know: events of other entities
that mention this one (their number is told), documents of search actions, results in Redis (until their ttl).`,
		Example: "  weir history forget --entity Customer --id 4711 --dry-run",
		Args:    noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			if f.entity == "" || f.id == "" {
				return wrongUse("say whose data is to be removed: --entity TYPE --id ID")
			}
			return a.forget(ctx, f)
		}),
	}
	cmd.Flags().StringVar(&f.entity, "entity", "", "the `type` of the entity, as events have it")
	cmd.Flags().StringVar(&f.id, "id", "", "the `id` of the entity")
	cmd.Flags().BoolVar(&f.changeLog, "change-log", false, "remove its rows of the change log, too, in the database source.url")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, dryRunUsage)
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	return cmd
}

// forgotten is the output of history forget.
type forgotten struct {
	Entity string `json:"entity"`  // type of the entity
	ID     string `json:"id"`      // of the entity
	DryRun bool   `json:"dry_run"` // nothing was changed
	*index.Receipt
	index.Forgotten
	// ChangeLog is how many rows the change log has of it, null where it could not be asked; Removed says that they are gone.
	ChangeLog *int64 `json:"change_log"`
	Removed   bool   `json:"change_log_removed"` // the rows of the change log are gone, too
	// Mentions are events of other entities with its id among their words, null where nobody could be asked.
	Mentions *ops.Mentions `json:"mentions"`
}

// forget makes sure that everything can be reached before it removes anything.
func (a *app) forget(ctx context.Context, f forgetting) error {
	return a.withDatabase(ctx, func(s *settings, conn *pgx.Conn) error {
		if s.mistakes != nil {
			return s.mistakes // they may hide an Elasticsearch
		}
		if _, err := ops.CheckMigrated(ctx, conn); err != nil {
			return err
		}
		source, err := a.connectSource(ctx, s)
		if err != nil {
			return err
		}
		defer closeConn(ctx, source)
		log := ops.ChangeLogOf{Source: source, Table: *s.capture.WithDefaults().ChangeLog, EntityType: f.entity, EntityID: f.id}
		if f.changeLog {
			if err := log.CheckRemovable(ctx); err != nil {
				return err
			}
		}
		if s.file != nil && s.file.Elasticsearch != nil {
			return s.withElasticsearch(func(e *index.Elasticsearch) error {
				if err := checkElasticsearch(ctx, e); err != nil {
					return err
				}
				return a.forgetEverywhere(ctx, s, conn, log, e, f)
			})
		}
		if had, err := ops.StoredIn(ctx, conn, ops.StoreElasticsearch); err != nil {
			return err
		} else if had {
			a.notef("weir: an Elasticsearch once had the history, and the configuration has no section elasticsearch: " +
				"what is there is not removed")
		}
		return a.forgetEverywhere(ctx, s, conn, log, nil, f)
	})
}

func (a *app) forgetEverywhere(
	ctx context.Context, s *settings, conn *pgx.Conn, log ops.ChangeLogOf, e *index.Elasticsearch, f forgetting,
) error {
	act := index.Forget{EntityType: f.entity, EntityID: f.id, By: whoami(), Elasticsearch: e}
	said := forgotten{Entity: f.entity, ID: f.id, DryRun: f.dryRun}
	var err error
	if said.Forgotten, err = act.Count(ctx, conn); err != nil {
		return err
	}
	rows, err := log.Count(ctx)
	switch {
	case err == nil:
		said.ChangeLog = &rows
	case f.changeLog:
		return err
	default:
		a.notef("weir: %v", err)
	}
	if !f.dryRun {
		if err := a.confirmForget(ctx, f, said); err != nil {
			return err
		}
		if f.changeLog { // before the rest: what is missing there might be captured again
			if rows, err = log.Remove(ctx); err != nil {
				return err
			}
			said.Removed = true
		}
		var receipt index.Receipt
		said.Forgotten, receipt, err = act.Remove(ctx, conn)
		if err != nil {
			return forgetError(err, e)
		}
		said.Receipt = &receipt
	}
	said.Mentions = a.mentions(ctx, s, conn, e, f)
	return a.print(said, func(w io.Writer) { a.writeForgotten(w, said) })
}

// forgetError tells an Elasticsearch that went away meanwhile from the rest.
func forgetError(err error, e *index.Elasticsearch) error {
	if e.Trouble() != "" {
		return &ops.ElasticsearchError{Err: err}
	}
	return err
}

func (a *app) confirmForget(ctx context.Context, f forgetting, would forgotten) error {
	if !a.interactive {
		return nil
	}
	what := fmt.Sprintf("%s, %s and %s (%d unfinished)", count(would.Events, "event"), count(would.Outcomes, "outcome"),
		count(would.Jobs, "job"), would.Unfinished)
	if f.changeLog && would.ChangeLog != nil {
		what += ", and " + count(*would.ChangeLog, "row") + " of the change log"
	}
	return a.confirm(ctx, f.yes, "remove %s of %s %s for good", what, f.entity, f.id)
}

// mentions asks the store that weir search asks. That it cannot is no failure: what was to be removed is.
func (a *app) mentions(
	ctx context.Context, s *settings, conn *pgx.Conn, e *index.Elasticsearch, f forgetting,
) *ops.Mentions {
	history := ops.HistoryInPostgres(conn)
	if where, err := s.chosenStore(""); err == nil && where == ops.StoreElasticsearch && e != nil {
		history = ops.HistoryInElasticsearch(conn, e)
	}
	found, err := history.Mentions(ctx, f.entity, f.id)
	if err != nil {
		a.notef("weir: whether events of other entities mention it is not known: %v", err)
		return nil
	}
	return &found
}

func (a *app) writeForgotten(w io.Writer, said forgotten) {
	verb := "removed"
	if said.DryRun {
		verb = "would be removed"
	}
	fmt.Fprintf(w, "%s %s: %s\n", said.Entity, said.ID, verb)
	var t table
	line := func(n int64, noun string) { t.add(c("  " + count(n, noun))) }
	line(said.Events, "event")
	line(said.Outcomes, "outcome")
	t.add(c(fmt.Sprintf("  %s, of them %d unfinished and %s", count(said.Jobs, "job"), said.Unfinished,
		count(said.DeadLetters, "dead letter"))))
	t.add(c("  " + count(said.Documents, "document") + " of the history in PostgreSQL"))
	if said.Forgotten.Elasticsearch != nil {
		t.add(c("  " + count(*said.Forgotten.Elasticsearch, "document") + " in Elasticsearch"))
	}
	if said.Removed {
		t.add(c("  " + count(*said.ChangeLog, "row") + " of the change log"))
	}
	t.write(a, w)
	a.writeRemains(w, said)
	if said.Receipt != nil {
		fmt.Fprintf(w, "receipt %d in weir.forgotten, of %s\n", said.Receipt.ID, said.ForgottenAt.UTC().Format(time.RFC3339))
	} else {
		fmt.Fprintln(w, "nothing was changed")
	}
}

// writeRemains says what was not touched.
func (a *app) writeRemains(w io.Writer, said forgotten) {
	fmt.Fprintln(w, "not touched:")
	switch {
	case said.Removed:
	case said.ChangeLog == nil:
		fmt.Fprintln(w, "  the change log, which could not be asked")
	case *said.ChangeLog > 0:
		fmt.Fprintf(w, "  %s of the change log: --change-log removes them\n", count(*said.ChangeLog, "row"))
	}
	switch m := said.Mentions; {
	case m == nil:
	case m.AtLeast:
		fmt.Fprintf(w, "  events of other entities that mention the id: at least %d\n", m.Events)
	case m.Events > 0:
		a.sayf(w, "  %s of other entities that mention the id: weir search '\"%s\"'\n", count(m.Events, "event"), said.ID)
	}
	a.sayf(w, "  documents of search actions, and results in Redis, which end with their ttl\n")
}
