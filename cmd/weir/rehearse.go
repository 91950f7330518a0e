package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/action"
	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
	"github.com/fraiseql/weir/internal/ops"
)

func newTestCommand(a *app) *cobra.Command {
	var r rehearsed
	cmd := &cobra.Command{
		Use:   "test OBSERVER --event FILE | --event-id ID",
		Short: "Show what an observer would send for an event",
		Long: `Show whether an observer matches an event, or which part of its condition is false, and what each of its actions would
send: rendered, and not sent. The event is the JSON of a FILE ("-" is the standard input), with the keys that receivers see,
of which event_type and entity_type are needed; or one that was recorded, by its ID.

Neither a database (but for --event-id) nor secrets are needed: what depends on a variable that is not set is shown as not
known. The exit code is 1 when the event would make a dead letter: a condition or a template fails. No match is 0.`,
		Example: "  weir test order-shipped --event event.json\n" +
			`  echo '{"event_type": "INSERT", "entity_type": "Order"}' |` + "\n" +
			"    weir test order-shipped --event -\n" +
			"  weir test order-shipped --event-id 0190a0c2-7f0e-7c3a-8a52-3f2d1f0c9b11",
		Args: cobra.ExactArgs(1),
		RunE: a.does(func(ctx context.Context, args []string) error {
			r.observer = args[0]
			return a.rehearse(ctx, r)
		}),
		ValidArgsFunction: a.firstArgument(observerNames),
	}
	cmd.Flags().StringVar(&r.file, "event", "", "the event's JSON, a `file` or - for the standard input")
	if err := cmd.MarkFlagFilename("event", "json"); err != nil {
		panic(err) // the flag is one line above
	}
	cmd.Flags().StringVar(&r.id, "event-id", "", "a recorded event, by its `id`")
	return cmd
}

// rehearsed says what to rehearse.
type rehearsed struct{ observer, file, id string }

// rehearsal is the output of test.
type rehearsal struct {
	ops.Rehearsal

	// UnknownKeys are keys of the file that no event has.
	UnknownKeys []string `json:"unknown_keys"`
	// Unset are the variables that the actions ask for and the environment lacks.
	Unset []string `json:"unset"`
}

func (a *app) rehearse(ctx context.Context, r rehearsed) error {
	if (r.file == "") == (r.id == "") {
		return wrongUse("name an event by either --event or --event-id")
	}
	cfg, err := a.incomplete(ctx)
	if err != nil {
		return err
	}
	if _, ok := cfg.Observers[r.observer]; !ok {
		return unknownObserver(r.observer, slices.Sorted(maps.Keys(cfg.Observers)))
	}
	set, err := observer.New(cfg.Observers, action.Deps{Mailer: action.NewMailer(cfg.SMTP), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return configError{err}
	}
	out := rehearsal{UnknownKeys: []string{}, Unset: []string{}}
	e, payload, err := a.eventOf(ctx, r, &out)
	if err != nil {
		return err
	}
	out.Rehearsal = ops.Rehearse(set, r.observer, e, payload)
	for _, name := range cfg.Unset {
		if asksFor(out.Actions, name) {
			out.Unset = append(out.Unset, name)
		}
	}
	if err := a.print(out, func(w io.Writer) { a.writeRehearsal(w, out) }); err != nil {
		return err
	}
	if out.Failed() {
		return errSaid
	}
	return nil
}

// incomplete loads the configuration without asking for what only a worker needs: a database and secrets.
func (a *app) incomplete(ctx context.Context) (*config.Config, error) {
	path, err := config.Find(a.flags.config, a.lookup)
	if err != nil {
		return nil, configError{err}
	}
	cfg, err := config.Load(ctx, config.Options{Path: path, Lookup: a.lookupDatabase, Incomplete: true})
	if err != nil {
		return nil, configError{err}
	}
	a.verbosef("configuration: %s", path)
	return cfg, nil
}

func unknownObserver(name string, known []string) error {
	if like := config.Nearest(name, known); like != "" {
		return wrongUse("there is no observer %q: did you mean %s?", name, like)
	}
	if len(known) == 0 {
		return wrongUse("there is no observer %q: the configuration has none", name)
	}
	return wrongUse("there is no observer %q: expected one of %s", name, strings.Join(known, ", "))
}

// eventOf is the event to rehearse with, and its JSON.
func (a *app) eventOf(ctx context.Context, r rehearsed, out *rehearsal) (e *event.Event, payload []byte, err error) {
	if r.id != "" {
		return a.recorded(ctx, r.id)
	}
	var raw []byte
	if r.file == "-" {
		raw, err = io.ReadAll(a.stdin)
	} else {
		raw, err = os.ReadFile(r.file)
	}
	if err != nil {
		return nil, nil, wrongUse("--event: %w", err)
	}
	e, unknown, err := event.Read(raw)
	if err != nil {
		return nil, nil, wrongUse("--event %s: %w", r.file, err)
	}
	out.UnknownKeys = append(out.UnknownKeys, unknown...)
	payload, err = e.JSON()
	return e, payload, err
}

func (a *app) recorded(ctx context.Context, name string) (e *event.Event, payload []byte, err error) {
	id, err := uuid.Parse(name)
	if err != nil {
		return nil, nil, wrongUse("%q is no id of an event: expected a UUID", name)
	}
	err = a.withMigrated(ctx, func(conn *pgx.Conn) (err error) {
		if e, payload, err = ops.Recorded(ctx, conn, id); errors.Is(err, ops.ErrNoEvent) {
			err = fmt.Errorf("%w (not ingested yet? see weir status; or it is older than the history)", err)
		}
		return err
	})
	return e, payload, err
}

// asksFor says that what an action would send depends on a variable.
func asksFor(actions []ops.RehearsedAction, name string) bool {
	mentions := func(text string) bool {
		return strings.Contains(text, "$"+name+" ") || strings.Contains(text, "${"+name+"}")
	}
	return slices.ContainsFunc(actions, func(a ops.RehearsedAction) bool {
		return mentions(a.Error) || slices.ContainsFunc(a.Parts, func(p action.Part) bool { return mentions(p.Value) })
	})
}

func (a *app) writeRehearsal(w io.Writer, r rehearsal) {
	for _, key := range r.UnknownKeys {
		a.notef("weir: no event has the key %q: it was left out (an entity's fields belong into data)", key)
	}
	if len(r.Unset) > 0 {
		a.notef("weir: not set in the environment: %s; what depends on that is not known", strings.Join(r.Unset, ", "))
	}
	verdict := a.paint(yellow, "does not match")
	switch r.Verdict {
	case observer.VerdictMatch:
		verdict = a.paint(green, "matches")
	case observer.VerdictError:
		verdict = a.paint(red, "fails") + ": the event would be a dead letter"
	default:
	}
	fmt.Fprintf(w, "%s %s\n", a.paint(bold, r.Observer), verdict)
	if r.Condition != "" {
		fmt.Fprintf(w, "  condition: %s\n", oneLine(r.Condition))
	}
	if r.Reason != "" {
		a.sayf(w, "  %s\n", visible(r.Reason))
	}
	for _, action := range r.Actions {
		fmt.Fprintln(w)
		a.writeAction(w, action)
	}
}

func (a *app) writeAction(w io.Writer, r ops.RehearsedAction) {
	title := a.paint(bold, r.Name) + " (" + r.Type + ")"
	if r.Endpoint != "" && r.Endpoint != r.Type {
		title += " to " + r.Endpoint
	}
	fmt.Fprintln(w, title)
	if r.Error != "" {
		a.sayf(w, "  %s %s\n", a.paint(red, "ERROR"), visible(r.Error))
	}
	for _, part := range r.Parts {
		name, text := a.paint(dim, part.Name+":"), visible(part.Value)
		if json.Valid([]byte(part.Value)) && strings.HasPrefix(part.Value, "{") {
			text = strings.TrimPrefix(indented(json.RawMessage(part.Value)), "  ")
			fmt.Fprintf(w, "  %s\n  %s\n", name, visible(text))
			continue
		}
		fmt.Fprintf(w, "  %s %s\n", name, strings.ReplaceAll(text, "\n", "\n    "))
	}
}

// visible shows control characters, which a terminal would obey: an event may hold any.
func visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			fmt.Fprintf(&b, "%U", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
