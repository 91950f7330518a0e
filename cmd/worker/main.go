// Command worker captures committed changes and delivers them. `weir` is the command line for people.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/worker"
)

// version is set by the build.
var version = "dev"

// Exit codes, the same as the command line's.
const (
	exitDone          = 0
	exitFailed        = 1
	exitUsage         = 2
	exitConfiguration = 3
)

func main() {
	// The first signal starts the soft stop, the second ends waiting: the context is done, and the default is back.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

func run(
	ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer,
) int {
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "", "the configuration `file` (default: $WEIR_CONFIG, ./weir.yaml, /etc/weir/weir.yaml)")
	showVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitDone
		}
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "worker: unexpected argument %q; see worker -help\n", flags.Arg(0))
		return exitUsage
	}
	if *showVersion {
		fmt.Fprintln(stdout, "weir worker", version)
		return exitDone
	}
	cfg, err := load(ctx, *path, lookup)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitConfiguration
	}
	logger := cfg.Log.Logger(stderr)
	for _, warning := range cfg.Warnings {
		logger.Warn("configuration", "warning", warning.String())
	}
	if err := worker.New(cfg, worker.Options{Logger: logger, Version: version}).Run(ctx); err != nil {
		logger.Error("worker ended", "error", err)
		return exitFailed
	}
	return exitDone
}

func load(ctx context.Context, explicit string, lookup func(string) (string, bool)) (*config.Config, error) {
	path, err := config.Find(explicit, lookup)
	if err != nil {
		return nil, err
	}
	return config.Load(ctx, config.Options{Path: path, Lookup: lookup})
}
