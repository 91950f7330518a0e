// Command riverui-proxy serves River UI and Weir's own pages, with authentication and a read-only mode.
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
	"github.com/fraiseql/weir/internal/console"
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
	// The first signal lets running requests end, the second ends waiting: the context is done, and the default is back.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("riverui-proxy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "", "the configuration `file` (default: $WEIR_CONFIG, ./weir.yaml, /etc/weir/weir.yaml, or none)")
	databaseURL := flags.String("database-url", "", "the database's `URL` (default: $DATABASE_URL, or the file's)")
	showVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitDone
		}
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "riverui-proxy: unexpected argument %q; see riverui-proxy -help\n", flags.Arg(0))
		return exitUsage
	}
	if *showVersion {
		fmt.Fprintln(stdout, "weir riverui-proxy", version)
		return exitDone
	}
	cfg, err := load(ctx, *path, *databaseURL, lookup)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitConfiguration
	}
	logger := cfg.Log.Logger(stderr, nil)
	c, err := console.New(ctx, console.Options{Config: cfg, Logger: logger, Version: version})
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitConfiguration
	}
	if err := c.Run(ctx); err != nil {
		logger.Error("console ended", "error", err)
		return exitFailed
	}
	return exitDone
}

// load reads the configuration, or does without a file. What the workers' secrets are is not for the console to know: only its
// own must be there.
func load(ctx context.Context, explicit, databaseURL string, lookup func(string) (string, bool)) (*config.Config, error) {
	inner := lookup
	lookup = func(name string) (string, bool) {
		if name == "DATABASE_URL" && databaseURL != "" {
			return databaseURL, true
		}
		return inner(name)
	}
	named, err := database(lookup)
	if err != nil {
		return nil, err
	}
	path, err := config.Find(explicit, lookup)
	if errors.Is(err, config.ErrNotFound) {
		if named.IsZero() {
			return nil, errors.New("no database: set DATABASE_URL, name it with --database-url, or write a configuration file")
		}
		return config.Default(named), nil
	}
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(ctx, config.Options{Path: path, Lookup: lookup, Incomplete: true, Console: true})
	if err != nil {
		return nil, err
	}
	if databaseURL != "" || cfg.Database.URL.IsZero() { // the most explicit one
		if cfg.Source.URL == cfg.Database.URL {
			cfg.Source.URL = named
		}
		cfg.Database.URL = named
	}
	if cfg.Database.URL.IsZero() {
		return nil, fmt.Errorf("%s: database.url is missing: write it, or set DATABASE_URL", path)
	}
	return cfg, nil
}

// database is DATABASE_URL's, none where that is not set.
func database(lookup func(string) (string, bool)) (config.URL, error) {
	text, _ := lookup("DATABASE_URL")
	if text == "" {
		return config.URL{}, nil
	}
	u, err := config.ParseURL(text)
	if err != nil {
		return config.URL{}, fmt.Errorf("DATABASE_URL: %w", err)
	}
	return u, nil
}
