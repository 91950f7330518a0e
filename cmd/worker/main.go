// Command worker captures committed changes and delivers them. `weir` is the command line for people.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
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
	worker.TuneGC()
	// The first signal starts the soft stop, the second ends waiting: the context is done, and the default is back.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, hangup, os.Stdout, os.Stderr))
}

func run(
	ctx context.Context, args []string, lookup func(string) (string, bool), hangup <-chan os.Signal, stdout, stderr io.Writer,
) int {
	flags := flag.NewFlagSet("worker", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "", "the configuration `file` (default: $WEIR_CONFIG, ./weir.yaml, /etc/weir/weir.yaml)")
	showVersion := flags.Bool("version", false, "print the version and exit")
	healthcheck := flags.Bool("healthcheck", false, "ask the worker beside, by http.listen, whether it is alive; exit 1 if not")
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
	if *healthcheck {
		return askHealth(ctx, *path, lookup, stderr)
	}
	load := func(ctx context.Context) (*config.Config, error) { return load(ctx, *path, lookup) }
	cfg, err := load(ctx)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitConfiguration
	}
	var level slog.LevelVar
	logger := cfg.Log.Logger(stderr, &level)
	for _, warning := range cfg.Warnings {
		logger.Warn("configuration", "warning", warning.String())
	}
	w := worker.New(cfg, worker.Options{
		Logger: logger, Version: version, Load: load, Reload: asked(ctx, hangup), LogLevel: &level,
	})
	if err := w.Run(ctx); err != nil {
		logger.Error("worker ended", "error", err)
		return exitFailed
	}
	return exitDone
}

// asked passes signals on as what they ask for.
func asked(ctx context.Context, hangup <-chan os.Signal) <-chan struct{} {
	reload := make(chan struct{})
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
			}
			select {
			case <-ctx.Done():
				return
			case reload <- struct{}{}:
			}
		}
	}()
	return reload
}

func load(ctx context.Context, explicit string, lookup func(string) (string, bool)) (*config.Config, error) {
	path, err := config.Find(explicit, lookup)
	if err != nil {
		return nil, err
	}
	return config.Load(ctx, config.Options{Path: path, Lookup: lookup})
}
