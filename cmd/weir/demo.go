package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/ops"
)

const (
	// storyLimit bounds what takes a few seconds: waiting longer would tell nothing more.
	storyLimit = 60 * time.Second
	// orderEvery is the pace of the demo that goes on.
	orderEvery = 3 * time.Second
)

// demoOptions are the flags of the demo.
type demoOptions struct {
	once bool
	drop int // the receiver pretends not to have seen this delivery
}

func newDemoCommand(a *app) *cobra.Command {
	var opts demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show Weir at work on a private PostgreSQL",
		Long: `Starts a private PostgreSQL in a temporary directory, a receiver of webhooks and a worker with the example in
examples/orders, commits orders, and shows what comes of each: webhooks with their signatures, a delivery that is
retried and becomes a dead letter, a change that matches nothing.

It then goes on with an order every few seconds until Ctrl-C, and removes everything. With DATABASE_URL it uses that
server, in a database of its own that is dropped afterwards; it needs the right to create databases and to replicate.`,
		Example: "  weir demo --once",
		Args:    noArguments,
		RunE:    a.does(func(ctx context.Context, _ []string) error { return a.demo(ctx, opts) }),
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.once, "once", false, "end after the first orders: exit 0 only if every delivery was seen")
	flags.IntVar(&opts.drop, "drop", 0, "the receiver pretends not to have seen the `n`-th delivery")
	if err := flags.MarkHidden("drop"); err != nil {
		panic(err) // the flag is one line above
	}
	return cmd
}

// demo tells its story and removes everything, whatever came of it.
func (a *app) demo(ctx context.Context, opts demoOptions) (err error) {
	if a.flags.databaseURL != "" || a.flags.config != "" {
		return wrongUse("the demo has a configuration and a database of its own: name a server with DATABASE_URL")
	}
	s := &story{stage: &stage{app: a, opts: opts, screen: &screen{app: a}}}
	defer func() {
		s.keepLog = err != nil && ctx.Err() == nil // it says what went wrong
		err = errors.Join(err, s.close(ctx))
		if s.keepLog && s.logPath != "" {
			a.notef("the worker's log is kept: %s", s.logPath)
		}
	}()
	err = s.tell(ctx)
	switch {
	case ctx.Err() == nil:
		return err
	case opts.once:
		return errors.New("interrupted before the end")
	default:
		s.screen.heading("Stopping; everything that the demo started is removed.")
		return nil
	}
}

func (s *story) tell(ctx context.Context) error {
	if err := s.start(ctx); err != nil {
		return err
	}
	s.screen.heading("Orders are committed")
	err := within(ctx, s.whole)
	if err == nil {
		err = s.checkDeadLetters(ctx)
	}
	if err != nil {
		return s.verdict(err)
	}
	if err := s.showStatus(ctx); err != nil {
		return err
	}
	if s.opts.once {
		return s.verdict(nil)
	}
	s.showNext()
	return s.goOn(ctx)
}

func within(ctx context.Context, tell func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, storyLimit, fmt.Errorf("not finished after %s", storyLimit))
	defer cancel()
	err := tell(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx) // whatever it broke off
	}
	return err
}

// checkDeadLetters looks for the one that `weir dlq list` has to show.
func (s *story) checkDeadLetters(ctx context.Context) error {
	page, err := ops.NewDeadLetters(s.conn).List(ctx, ops.Filter{Observer: "order-canceled"}, 0, 1)
	if err != nil {
		return err
	}
	if len(page.DeadLetters) == 0 || page.DeadLetters[0].EventID != s.last {
		s.problem("the dead letter of order-canceled (event %s) is not in the list", s.last)
	}
	return nil
}

// showStatus is what `weir status` prints.
func (s *story) showStatus(ctx context.Context) error {
	status, err := ops.ReadStatus(ctx, s.conn, s.conn, s.cfg.Source.Config)
	if err != nil {
		return err
	}
	s.screen.heading("weir status")
	s.writeStatus(s.stdout, status)
	return nil
}

// verdict is the end of the demo with --once, and of one that failed.
func (s *story) verdict(err error) error {
	if err != nil && len(s.problems) == 0 {
		return err
	}
	s.screen.heading("Result")
	if len(s.problems) == 0 {
		fmt.Fprintf(s.stdout, "%s %s with valid signatures, %s after its last attempt, nothing missing.\n",
			s.paint(green, "complete:"), count(s.verified, "webhook"), count(s.dead, "dead letter"))
		return nil
	}
	for _, problem := range s.problems {
		fmt.Fprintln(s.stdout, s.paint(red, "problem:"), problem)
	}
	if err == nil {
		return errSaid
	}
	return err
}

// showNext says what to open.
func (s *story) showNext() {
	s.screen.heading("What to look at now, in another terminal")
	at := fmt.Sprintf("--database-url '%s'", s.databaseURL)
	weir := os.Args[0]
	for _, line := range [][2]string{
		{"metrics", "http://" + s.workerAddr + "/metrics"},
		{"readiness", "http://" + s.workerAddr + "/readyz"},
		{"dead letters", weir + " dlq list " + at},
		{"the event of one", fmt.Sprintf("%s debug-event %s --config %s %s", weir, s.last, s.configPath(), at)},
		{"a client", "psql '" + s.databaseURL + "'"},
	} {
		fmt.Fprintf(s.stdout, "  %-16s  %s\n", line[0], line[1])
	}
	s.screen.heading(fmt.Sprintf("An order every %s; Ctrl-C ends and removes everything", orderEvery))
}

// goOn commits orders until the context ends. Now and then one is canceled, which the warehouse does not take.
func (s *story) goOn(ctx context.Context) error {
	customers := []string{"Grace", "Alan", "Barbara", "Edsger", "Frances"}
	for n := 0; ; n++ {
		err := within(ctx, func(ctx context.Context) error {
			cents := 100 + rand.IntN(20000)
			o, err := s.create(ctx, customers[n%len(customers)], fmt.Sprintf("%d.%02d", cents/100, cents%100))
			if err != nil {
				return err
			}
			if n%5 == 4 {
				return s.cancel(ctx, o)
			}
			return s.ship(ctx, o, cents > 10000)
		})
		if err != nil {
			return err
		}
		if err := s.pause(ctx, orderEvery); err != nil {
			return err
		}
	}
}

func (s *story) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case r := <-s.requests:
			s.arrived(change{}, nil, r)
		case <-timer.C:
			return nil
		case <-s.ended:
			return s.workerEnded()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
