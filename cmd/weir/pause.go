package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/ops"
)

// pauseFlags are those of pause and of resume.
type pauseFlags struct {
	endpoints, observers []string
	stream, yes          bool
	reason               string
}

func (f *pauseFlags) add(cmd *cobra.Command, verb string) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.endpoints, "endpoint", nil, verb+" deliveries to this `endpoint`; may be given several times")
	flags.StringSliceVar(&f.observers, "observer", nil, verb+" deliveries of this `observer`; may be given several times")
}

func newPauseCommand(a *app) *cobra.Command {
	var f pauseFlags
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Stop deliveries, or the reading of the stream",
		Long: `Stop all deliveries, or those to some endpoints or of some observers, in all workers, until somebody resumes them.
Events go on being recorded, and their deliveries wait: none is lost, and none uses up an attempt. Deliveries that run end as
they end. Workers follow within about two seconds, also those that start later.

With --stream nobody reads the stream instead: nothing is recorded, and the replication slot holds WAL on the server, more and
more of it, until weir resume --stream. Reading goes on where it stopped. Where max_slot_wal_keep_size limits what a slot may
hold, a pause that is too long costs the stream its continuity.

weir status lists what is paused.`,
		Example: `  weir pause --reason 'the ERP is being moved'
  weir pause --endpoint erp.example.org --endpoint crm.example.org
  weir pause --observer order-shipped
  weir pause --stream --yes`,
		Args: noArguments,
		RunE: a.does(func(ctx context.Context, _ []string) error { return a.pause(ctx, f) }),
	}
	f.add(cmd, "stop")
	cmd.Flags().BoolVar(&f.stream, "stream", false, "stop reading the stream: the slot holds WAL until it is resumed")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask, with --stream")
	cmd.Flags().StringVar(&f.reason, "reason", "", "`why`, for those who look at it")
	return cmd
}

func newResumeCommand(a *app) *cobra.Command {
	var f pauseFlags
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Let go on what was paused",
		Long: `Let go on what was paused. With no flag, every pause of deliveries is lifted, of all of them, of endpoints and of
observers, also those that River UI has made, but not that of the stream. With flags, only those pauses.`,
		Example: "  weir resume\n  weir resume --endpoint erp.example.org\n  weir resume --stream",
		Args:    noArguments,
		RunE:    a.does(func(ctx context.Context, _ []string) error { return a.resume(ctx, f) }),
	}
	f.add(cmd, "resume")
	cmd.Flags().BoolVar(&f.stream, "stream", false, "read the stream again")
	return cmd
}

func (a *app) pause(ctx context.Context, f pauseFlags) error {
	return a.withPauses(ctx, f, func(conn *pgx.Conn, t ops.Targets, slot *ops.HeldSlot) (*ops.Pauses, error) {
		if f.stream {
			err := a.confirm(ctx, f.yes, "stop reading the stream, %s", heldText(slot))
			if err != nil {
				return nil, err
			}
		}
		return ops.PauseWork(ctx, conn, t, whoami(), f.reason)
	}, writePauses)
}

func (a *app) resume(ctx context.Context, f pauseFlags) error {
	return a.withPauses(ctx, f, func(conn *pgx.Conn, t ops.Targets, _ *ops.HeldSlot) (*ops.Pauses, error) {
		return ops.ResumeWork(ctx, conn, t)
	}, writeResumed)
}

// withPauses runs a command on a migrated database, and on the source where the stream is meant. A name that nobody knows is a
// mistake in the command line.
func (a *app) withPauses(
	ctx context.Context, f pauseFlags, do func(*pgx.Conn, ops.Targets, *ops.HeldSlot) (*ops.Pauses, error),
	say func(io.Writer, *ops.Pauses),
) error {
	return a.withDatabase(ctx, func(s *settings, conn *pgx.Conn) error {
		if _, err := ops.CheckMigrated(ctx, conn); err != nil {
			return err
		}
		t := ops.Targets{Endpoints: f.endpoints, Observers: f.observers, Stream: f.stream}
		var err error
		if s.file != nil && s.mistakes == nil {
			if t.Configured, err = compileObservers(s.file.Observers); err != nil {
				return err
			}
		}
		var slot *ops.HeldSlot
		if f.stream {
			if slot, err = a.heldSlot(ctx, s); err != nil {
				return err
			}
		}
		done, err := do(conn, t, slot)
		var unknown *ops.UnknownTargetError
		if errors.As(err, &unknown) {
			return wrongUse("%w", err)
		}
		if err != nil {
			return err
		}
		done.Slot = slot
		return a.print(done, func(w io.Writer) { say(w, done) })
	})
}

func (a *app) heldSlot(ctx context.Context, s *settings) (*ops.HeldSlot, error) {
	source, err := a.connectSource(ctx, s)
	if err != nil {
		return nil, err
	}
	defer closeConn(ctx, source)
	return ops.ReadHeldSlot(ctx, source, s.capture)
}

// heldText says what of the stream is at stake.
func heldText(h *ops.HeldSlot) string {
	switch {
	case h == nil:
		return "which has no slot yet"
	case h.LimitBytes == nil:
		return fmt.Sprintf("whose slot %s then holds WAL until the disk is full (%s now)", h.Slot, ops.Size(h.RetainedBytes))
	default:
		return fmt.Sprintf("whose slot %s then holds WAL up to %s (%s now)", h.Slot, ops.Size(*h.LimitBytes), ops.Size(h.RetainedBytes))
	}
}

func writePauses(w io.Writer, p *ops.Pauses) {
	for _, one := range p.Changed {
		fmt.Fprintf(w, "paused: %s\n", one.What())
	}
	for _, one := range p.Unchanged {
		fmt.Fprintf(w, "paused already: %s\n  %s\n", one.What(), pausedText(one, time.Time(p.Time)))
	}
	all := slices.Concat(p.Changed, p.Unchanged)
	if slices.ContainsFunc(all, func(one ops.Pause) bool { return one.Scope != ops.ScopeStream }) {
		fmt.Fprintf(w, `
Events go on being recorded, and their deliveries wait. Those that run end.
To go on: %s
`, resumeCommand(all))
	}
	if !slices.ContainsFunc(all, func(one ops.Pause) bool { return one.Scope == ops.ScopeStream }) {
		return
	}
	fmt.Fprintln(w)
	writeHeld(w, p.Slot)
	fmt.Fprintln(w, "To go on where reading stopped: weir resume --stream")
}

// writeHeld says what a pause of the stream costs.
func writeHeld(w io.Writer, h *ops.HeldSlot) {
	if h == nil {
		fmt.Fprintln(w, "There is no slot yet: what is captured begins when the stream is resumed.")
		return
	}
	fmt.Fprintf(w, "From now on slot %s holds the server's WAL.\nIt holds %s already.\n", h.Slot, ops.Size(h.RetainedBytes))
	if h.LimitBytes == nil {
		fmt.Fprintln(w, "Nothing limits that but the disk: max_slot_wal_keep_size is not set.")
		return
	}
	fmt.Fprintf(w, "Beyond max_slot_wal_keep_size, %s, the stream loses its continuity.\n", ops.Size(*h.LimitBytes))
}

// resumeCommand lifts these and no other pauses.
func resumeCommand(pauses []ops.Pause) string {
	command := "weir resume"
	for _, p := range pauses {
		switch p.Scope {
		case ops.ScopeEndpoint, ops.ScopeObserver:
			command += fmt.Sprintf(" --%s %s", p.Scope, p.Name)
		case ops.ScopeDeliveries, ops.ScopeStream:
		}
	}
	return command
}

func writeResumed(w io.Writer, p *ops.Pauses) {
	now := time.Time(p.Time)
	for _, one := range p.Changed {
		fmt.Fprintf(w, "resumed: %s\n  was %s\n", one.What(), pausedText(one, now))
	}
	for _, one := range p.Unchanged {
		fmt.Fprintf(w, "not paused: %s\n", one.What())
	}
	if len(p.Changed)+len(p.Unchanged) == 0 {
		fmt.Fprintln(w, "no deliveries are paused")
	}
	for _, one := range p.Paused {
		fmt.Fprintf(w, "still paused: %s\n  %s\n", one.What(), pausedText(one, now))
		if one.Scope == ops.ScopeStream {
			fmt.Fprintln(w, "  its slot holds WAL; to go on: weir resume --stream")
		}
	}
}

// pausedText says since when, by whom and why.
func pausedText(p ops.Pause, now time.Time) string {
	text := "paused " + ago(now, p.Since)
	switch {
	case p.By != "":
		text += " by " + p.By
	case p.Scope == ops.ScopeEndpoint:
		text += " in River UI"
	}
	if p.Reason != "" {
		text += "\n  " + ops.Short(p.Reason, 78)
	}
	return text
}

// writePaused says what waits since somebody has paused it.
func (a *app) writePaused(w io.Writer, s *ops.Status) {
	if len(s.Paused) == 0 {
		return
	}
	fmt.Fprintln(w)
	now := time.Time(s.Time)
	deliveries := false
	for _, p := range s.Paused {
		fmt.Fprintf(w, "%s: %s\n", p.What(), a.paint(yellow, pausedText(p, now)))
		deliveries = deliveries || p.Scope != ops.ScopeStream
	}
	if s.Paused[0].Scope == ops.ScopeStream { // the first, always
		fmt.Fprintln(w, "Read the stream again with: weir resume --stream")
	}
	if deliveries {
		fmt.Fprintln(w, "Let deliveries go on with: weir resume")
	}
}
