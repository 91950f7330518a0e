package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/config"
)

// Exit codes, for scripts.
const (
	exitDone          = 0
	exitFailed        = 1
	exitUsage         = 2
	exitConfiguration = 3
	exitConnection    = 4
	exitGap           = 5
)

// environment is what surrounds a call of the program: a test has another one than a terminal.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookup         func(name string) (string, bool)
	interactive    bool // somebody can be asked
	terminal       bool // stdout is one, so colors may be used
	columns        int  // of the terminal; 0: not known
}

// app is one call of the program.
type app struct {
	environment
	flags   globalFlags
	started bool // the command line was understood and its command runs

	unprepared bool // sessions prepare no statements, which a pooler in transaction mode may lose
}

type globalFlags struct {
	config, databaseURL string
	format              format
	verbose, noColor    bool
}

// run is the program. It returns the exit code.
func run(ctx context.Context, args []string, env environment) int {
	a := &app{environment: env, flags: globalFlags{format: formatText}}
	root := newRoot(a) //nolint:contextcheck // cobra hands each command its context
	root.SetArgs(args)
	root.SetIn(env.stdin)
	root.SetOut(env.stdout)
	root.SetErr(env.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	code := a.exitCode(err)
	if !errors.Is(err, errSaid) {
		_, _ = fmt.Fprintf(a.stderr, "weir: %v\n", err)
	}
	if code == exitUsage {
		_, _ = fmt.Fprintf(a.stderr, "See %s --help.\n", cmd.CommandPath())
	}
	return code
}

// errGap is for a gap in the stream, which the output has told of.
var errGap = fmt.Errorf("a gap in the stream: %w", errSaid)

// errSaid is for a failure that the output has already explained.
var errSaid = errors.New("failed, as said")

// usageError is a mistake in the command line that cobra does not know of.
type usageError struct{ error }

func wrongUse(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitCode classifies what ended a command. Before a command starts, only the command line can be at fault.
func (a *app) exitCode(err error) int {
	var (
		usage      usageError
		wrong      config.Errors
		invalid    configError
		connection *connectionError
		connect    *pgconn.ConnectError
		redis      *redisError
		elastic    *elasticError
		unheard    *scrapeError
	)
	switch {
	case !a.started, errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errGap):
		return exitGap
	case errors.As(err, &wrong), errors.As(err, &invalid):
		return exitConfiguration
	case errors.As(err, &connection), errors.As(err, &connect), errors.As(err, &redis), errors.As(err, &elastic),
		errors.As(err, &unheard):
		return exitConnection
	default:
		return exitFailed
	}
}

// does makes a function what a command does.
func (a *app) does(do func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		return do(cmd.Context(), args)
	}
}

// verbosef tells what -v asks for.
func (a *app) verbosef(format string, args ...any) {
	if a.flags.verbose {
		a.notef(format, args...)
	}
}

// notef is a line for people, beside the output.
func (a *app) notef(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, format+"\n", args...)
}
