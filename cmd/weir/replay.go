package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/ops"
)

// replayed says what is to be delivered again.
type replayed struct {
	from, to, observer, entity, source, id string

	incomplete, dryRun, yes bool
}

func newReplayCommand(a *app) *cobra.Command {
	var r replayed
	cmd := &cobra.Command{
		Use:   "replay --from TIME [--to TIME]",
		Short: "Deliver the events of a time again, on purpose",
		Long: `Match the events of a time against the observers of the configuration, as they are now, and have the workers make each of
their deliveries again: as new ones, with ids of their own, that say in the header X-Weir-Replay-Of which delivery they repeat.

The events are those that were recorded (weir.event). With --source change-log they are the rows of the change log, also those
from before the first start, which become events then. The time is the event's timestamp, the row's created_at.

A replay that was interrupted goes on with --id: what it has made once it does not make again. On a terminal it asks before.`,
		Example: "  weir replay --from 2h --entity Order --dry-run\n" +
			"  weir replay --from 2026-01-31T12:00:00Z --to 2026-01-31T14:00:00Z \\\n" +
			"    --observer order-shipped\n" +
			"  weir replay --from 2025-01-01 --to 2026-01-01 --source change-log \\\n" +
			"    --observer search",
		Args: noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error { return a.replay(ctx, r) }),
	}
	flags := cmd.Flags()
	flags.StringVar(&r.from, "from", "", "since a `time`: 24h (ago), 2026-01-31T12:00:00Z or 2026-01-31")
	flags.StringVar(&r.to, "to", "", "before a `time` (default: now)")
	flags.StringVar(&r.observer, "observer", "", "only to this observer, by `name`")
	flags.StringVar(&r.entity, "entity", "", "only events of this entity `type`")
	flags.StringVar(&r.source, "source", string(ops.ReplayEvents), "where they are read: `events|change-log`")
	complete(cmd, "source", []string{string(ops.ReplayEvents), string(ops.ReplayChangeLog)})
	flags.BoolVar(&r.incomplete, "incomplete", false, "also events that may have lost fields to history.redact for good")
	flags.StringVar(&r.id, "id", "", "go on with a replay, by its `uuid`")
	flags.BoolVar(&r.dryRun, "dry-run", false, dryRunUsage)
	flags.BoolVar(&r.yes, "yes", false, "do not ask")
	return cmd
}

// options reads the flags.
func (r replayed) options(now time.Time) (o ops.ReplayOptions, err error) {
	o = ops.ReplayOptions{
		ID: uuid.New(), Observer: r.observer, Entity: r.entity, Source: ops.ReplaySource(r.source), Incomplete: r.incomplete,
		DryRun: r.dryRun, Until: now,
	}
	if r.from == "" {
		return o, wrongUse("say since when: --from 2h, --from 2026-01-31T12:00:00Z or --from 2026-01-31")
	}
	if o.Since, err = moment("from", r.from, now); err != nil {
		return o, err
	}
	if r.to != "" {
		if o.Until, err = moment("to", r.to, now); err != nil {
			return o, err
		}
	}
	o.Since, o.Until = o.Since.UTC().Truncate(time.Microsecond), o.Until.UTC().Truncate(time.Microsecond)
	if !o.Since.Before(o.Until) {
		return o, wrongUse("--from (%s) is not before --to (%s)", o.Since.Format(time.RFC3339), o.Until.Format(time.RFC3339))
	}
	if o.Source != ops.ReplayEvents && o.Source != ops.ReplayChangeLog {
		return o, wrongUse("--source %q: expected %s or %s", r.source, ops.ReplayEvents, ops.ReplayChangeLog)
	}
	if r.id != "" {
		if o.ID, err = uuid.Parse(r.id); err != nil || o.ID == uuid.Nil {
			return o, wrongUse("--id %q: expected the id of a replay, a UUID", r.id)
		}
	}
	return o, nil
}

// observers compiles them. They are never run, so they get nothing to run with, and need no secrets.
func (s *settings) observers(only string) (*observer.Set, error) {
	switch {
	case s.file == nil:
		return nil, configError{errors.New("replay needs a configuration file, which says what observers there are: " +
			"name it with --config")}
	case s.mistakes != nil:
		return nil, s.mistakes
	}
	if _, ok := s.file.Observers[only]; !ok && only != "" {
		return nil, unknownObserver(only, slices.Sorted(maps.Keys(s.file.Observers)))
	}
	return compileObservers(s.file.Observers)
}

func (a *app) replay(ctx context.Context, r replayed) error {
	o, err := r.options(time.Now())
	if err != nil {
		return err
	}
	if !o.DryRun && !r.yes && !a.interactive {
		return a.confirm(ctx, false, "deliver events again")
	}
	return a.withDatabase(ctx, func(s *settings, conn *pgx.Conn) error {
		if o.Observers, err = s.observers(o.Observer); err != nil {
			return err
		}
		if _, err := ops.CheckMigrated(ctx, conn); err != nil {
			return err
		}
		o.Capture, o.History = s.capture, s.file.History
		o.Log = func(ctx context.Context) (*pgx.Conn, error) { return a.connectSource(ctx, s) }
		if !o.DryRun {
			if err := a.confirmReplay(ctx, r, conn, o); err != nil {
				return err
			}
		}
		return a.runReplay(ctx, conn, o)
	})
}

// confirmReplay says how much it is before it asks.
func (a *app) confirmReplay(ctx context.Context, r replayed, conn *pgx.Conn, o ops.ReplayOptions) error {
	if r.yes {
		return nil
	}
	o.DryRun = true
	would := ops.NewReplay(o)
	bar := a.newBar("event")
	o.Progress = bar.show
	err := would.Run(ctx, conn, o)
	bar.clear()
	if err != nil {
		return err
	}
	return a.confirm(ctx, false, "deliver %s again: %s to %d actions", count(would.Matched, "event"),
		count(would.Deliveries, "delivery"), len(would.Actions))
}

func (a *app) runReplay(ctx context.Context, conn *pgx.Conn, o ops.ReplayOptions) error {
	done := ops.NewReplay(o)
	if !o.DryRun {
		a.verbosef("replay %s", o.ID)
	}
	bar := a.newBar("event")
	o.Progress = bar.show
	err := done.Run(ctx, conn, o)
	bar.clear()
	if err != nil {
		if !o.DryRun && done.Events > 0 {
			a.notef("weir: %d of %s were looked at, %s made. To go on: %s", done.Events, count(done.Total, "event"),
				count(done.Deliveries, "delivery"), goOn(o))
		}
		return err
	}
	return a.print(done, func(w io.Writer) { a.writeReplay(w, done) })
}

// goOn is the command that goes on with a replay: with the times as they are, whatever was said.
func goOn(o ops.ReplayOptions) string {
	parts := []string{
		"weir replay --id " + o.ID.String(), "--from " + o.Since.Format(time.RFC3339Nano), "--to " + o.Until.Format(time.RFC3339Nano),
	}
	quoted := func(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
	if o.Observer != "" {
		parts = append(parts, "--observer "+quoted(o.Observer))
	}
	if o.Entity != "" {
		parts = append(parts, "--entity "+quoted(o.Entity))
	}
	if o.Source != ops.ReplayEvents {
		parts = append(parts, "--source "+string(o.Source))
	}
	if o.Incomplete {
		parts = append(parts, "--incomplete")
	}
	return strings.Join(parts, " ")
}

func (a *app) writeReplay(w io.Writer, r *ops.Replay) {
	noun, verb, recorded := "event", "made", "recorded as events"
	if r.Source == ops.ReplayChangeLog {
		noun = "row"
	}
	if r.DryRun {
		verb, recorded = "would be made", "would be recorded as events"
	}
	a.sayf(w, "%s from %s to %s, %d with a delivery\n", count(r.Events, noun), second(r.Since), second(r.Until), r.Matched)
	if len(r.Actions) > 0 {
		t := table{header: []string{"  OBSERVER/ACTION", "TYPE", "DELIVERIES"}}
		for _, action := range r.Actions {
			t.add(c("  "+action.Observer+"/"+action.Action), c(action.Type), c(fmt.Sprint(action.Deliveries)))
		}
		t.write(a, w)
	}
	for _, line := range []struct {
		n          int64
		noun, text string
	}{
		{r.Existing, "delivery", "that this replay had made before"},
		{r.Recorded, "row", "that no worker had ingested " + recorded},
		{r.Restored, "event", "completed from the change log, which history.redact had taken fields from"},
		{r.NotEvents, "row", "without an event"},
		{r.Forgotten, "row", "left out, of entities that were forgotten"},
		{r.Incomplete, "event", "left out, which may have lost fields to history.redact (--incomplete sends what is left)"},
	} {
		if line.n > 0 {
			a.sayf(w, "%s %s\n", count(line.n, line.noun), line.text)
		}
	}
	for _, row := range r.BadRows {
		a.sayf(w, "  row %d: %s\n", row.PK, visible(ops.Short(row.Reason, 200)))
	}
	for _, e := range r.Errors {
		a.sayf(w, "%s %s: the condition of %s fails: %s\n", a.paint(red, "not delivered"), count(e.Events, "event"), e.Observer,
			visible(ops.Short(e.First, 200)))
	}
	fmt.Fprintf(w, "%s %s\n", count(r.Deliveries, "delivery"), verb)
	switch {
	case r.DryRun:
		fmt.Fprintln(w, "nothing was changed")
	case r.Deliveries > 0:
		a.sayf(w, "Replay %s: the workers make them, after what is new. To watch: weir status, weir debug-event ID\n", r.ID)
	}
}
