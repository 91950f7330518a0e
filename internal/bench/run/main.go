// Command run measures, and writes down what it measured: `make bench` calls it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/fraiseql/weir/internal/bench"
)

// Exit codes, the same as those of the command line.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := bench.Options{Out: stdout}
	var names []string
	for _, row := range bench.Rows() {
		names = append(names, row.Name)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.Only, "only", "", "the `rows` to measure, of "+strings.Join(names, ", ")+" (default: all)")
	flags.IntVar(&o.Runs, "runs", 0, "how often (default: 5, or as the row needs)")
	flags.BoolVar(&o.Full, "full", false, "the sizes that take long")
	flags.StringVar(&o.Peer, "peer", "",
		"`path` of a program that reads the slot SLOT at DATABASE_URL; measured beside pg_recvlogical")
	flags.StringVar(&o.Profile, "profile", "", "`folder` for profiles of the workers, which are slower for it")
	flags.StringVar(&o.Folder, "results", "bench/results", "`folder` of the results")
	flags.StringVar(&o.Report, "report", "docs/performance.md", "the document that is brought up to date")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitDone
		}
		return exitUsage
	}
	if flags.NArg() > 0 || o.Runs < 0 {
		fmt.Fprintln(stderr, "bench: wrong arguments; see -help")
		return exitUsage
	}
	if err := bench.Run(ctx, o); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return exitFailed
	}
	return exitDone
}
