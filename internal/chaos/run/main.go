// Command run makes a chaos run by hand: `make chaos` calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fraiseql/weir/internal/chaos"
)

// Exit codes, the same as those of the command line.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// longRun is from when on a run has an Elasticsearch unless told otherwise.
const longRun = 5 * time.Minute

func main() {
	// The first signal ends the run, and all that it has started; the second one does not wait for that.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := chaos.Options{Out: stdout}
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Uint64Var(&o.Seed, "seed", rand.Uint64N(1_000_000),
		"`number` from which faults and load are drawn (another one each time unless it is given)")
	flags.DurationVar(&o.For, "for", time.Minute, "how long the load runs")
	flags.IntVar(&o.Rate, "rate", 200, "changes a second")
	flags.IntVar(&o.Workers, "workers", 3, "worker processes")
	flags.BoolVar(&o.Quiet, "quiet", false, "no faults")
	flags.BoolVar(&o.Keep, "keep", false, "keep the logs and PostgreSQL's data")
	flags.StringVar(&o.Binaries, "bin", "bin", "`folder` of worker and weir")
	elastic := flags.Bool("elasticsearch", false, "with an Elasticsearch (default: in runs of 5m and more)")
	planOnly := flags.Bool("plan", false, "print the faults, and do nothing")
	report := flags.String("report", "", "`file` for the report: Markdown, or JSON if its name ends so")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitDone
		}
		return exitUsage
	}
	if flags.NArg() > 0 || o.Workers < 1 || o.Rate < 1 || o.For < time.Second {
		fmt.Fprintln(stderr, "chaos: wrong arguments; see -help")
		return exitUsage
	}
	o.Elasticsearch = o.For >= longRun
	flags.Visit(func(f *flag.Flag) {
		if f.Name == "elasticsearch" {
			o.Elasticsearch = *elastic
		}
	})
	fmt.Fprintf(stdout, "seed %d\n", o.Seed)
	if *planOnly {
		fmt.Fprint(stdout, chaos.WritePlan(chaos.NewPlan(o)))
		return exitDone
	}
	return does(ctx, o, *report, stdout, stderr)
}

func does(ctx context.Context, o chaos.Options, file string, stdout, stderr io.Writer) int {
	r, err := chaos.Run(ctx, o)
	if r != nil {
		fmt.Fprint(stdout, r)
		if file != "" {
			err = errors.Join(err, r.Write(file))
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "chaos:", err)
		return exitFailed
	}
	if !r.OK() {
		fmt.Fprintf(stdout, "again: make chaos ARGS='--seed %d --for %s'\n", o.Seed, o.For)
		return exitFailed
	}
	return exitDone
}
