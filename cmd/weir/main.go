// Command weir is the command line for the people who run Weir: it prepares databases, checks configurations, answers
// how things stand, and handles dead letters. The worker itself is cmd/worker.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// version and commit are set by the build.
var (
	version = "dev"
	commit  = ""
)

func main() {
	// The first signal ends the command's work, the second the process: the default is back.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	columns := 0
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		columns = width
	}
	os.Exit(run(ctx, os.Args[1:], environment{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, lookup: os.LookupEnv,
		interactive: term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd())),
		terminal:    term.IsTerminal(int(os.Stdout.Fd())), columns: columns,
	}))
}
