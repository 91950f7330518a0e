package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/sandbox"
)

// Run makes a run and returns what came of it. An error means that there was no run to speak of: a server did not start, or ctx
// ended. What Weir did wrong is in the report.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	o = o.withDefaults()
	h := &harness{options: o, began: time.Now()}
	defer func() { err = errors.Join(err, h.close(context.WithoutCancel(ctx))) }()
	if err := h.start(ctx); err != nil {
		return nil, err
	}
	h.tell(fmt.Sprintf("seed %d, %s, %d faults planned, %d workers, %d changes/s, logs in %s",
		o.Seed, o.For, len(NewPlan(o)), o.Workers, o.Rate, h.dir))
	if err := h.load(ctx); err != nil {
		return nil, err
	}
	found, err := h.settle(ctx)
	if err != nil {
		return nil, err
	}
	return h.report(found), nil
}

// harness is a run with all that belongs to it.
type harness struct {
	options  Options
	dir      string
	url      string // of the database, past every relay
	slot     string
	ground   ground
	writing  *load
	evidence evidence
	undo     []func(context.Context) error // in the order of what they undo

	began, loaded, settled time.Time

	telling sync.Mutex // guards options.Out
}

func (h *harness) tell(line string) {
	h.telling.Lock()
	defer h.telling.Unlock()
	fmt.Fprintln(h.options.Out, line)
}

// onClose registers what undoes something, last in, first out.
func (h *harness) onClose(undo func(context.Context) error) { h.undo = append(h.undo, undo) }

func (h *harness) close(ctx context.Context) error {
	var errs []error
	for i := len(h.undo) - 1; i >= 0; i-- {
		errs = append(errs, h.undo[i](ctx))
	}
	return errors.Join(errs...)
}

// start starts everything that does not fail on purpose.
func (h *harness) start(ctx context.Context) (err error) {
	for _, name := range []string{"worker", "weir"} {
		if _, err := os.Stat(filepath.Join(h.options.Binaries, name)); err != nil {
			return fmt.Errorf("%w: make build", err)
		}
	}
	if h.dir, err = os.MkdirTemp("", "weir-chaos-"); err != nil {
		return err
	}
	h.onClose(func(context.Context) error {
		if h.options.Keep {
			h.tell("kept: " + h.dir)
			return nil
		}
		return os.RemoveAll(h.dir)
	})
	g := &h.ground
	g.tell, g.counts = h.tell, map[Kind]int{}
	if err := h.startServers(ctx); err != nil {
		return err
	}
	if g.receiver, err = newReceiver(ctx); err != nil {
		return err
	}
	h.onClose(func(context.Context) error { g.receiver.close(); return nil })
	if h.writing, err = newLoad(ctx, h.url, h.options); err != nil {
		return fmt.Errorf("prepare the load: %w", err)
	}
	elasticURL := ""
	if g.elastic != nil {
		elasticURL = g.elastic.URL()
	}
	if err := writeSettings(h.dir, h.slot, h.options, g.receiver.address, elasticURL); err != nil {
		return err
	}
	return h.startWorkers(ctx)
}

func (h *harness) startServers(ctx context.Context) (err error) {
	g := &h.ground
	h.tell("starting servers")
	if g.postgres, err = sandbox.StartPostgres(ctx, sandbox.PostgresOptions{Progress: h.tell}); err != nil {
		return err
	}
	h.onClose(func(ctx context.Context) error { return errors.Join(h.keepPostgres(), g.postgres.Stop(ctx)) })
	if h.url, _, err = g.postgres.Database(ctx); err != nil {
		return err
	}
	u, err := url.Parse(h.url)
	if err != nil {
		return err
	}
	h.slot = strings.TrimPrefix(u.Path, "/")
	if g.redis, err = sandbox.StartRedis(ctx); err != nil {
		return err
	}
	h.onClose(func(context.Context) error { return g.redis.Stop() })
	if h.options.Elasticsearch {
		if g.elastic, err = sandbox.StartElasticsearch(ctx); err != nil {
			return err
		}
		h.onClose(func(context.Context) error { return g.elastic.Stop() })
	}
	return nil
}

// keepPostgres takes the data out of the folder that is going to be removed.
func (h *harness) keepPostgres() error {
	if !h.options.Keep {
		return nil
	}
	return errors.Join(h.ground.postgres.Kill(), h.ground.postgres.Keep(filepath.Join(h.dir, "postgres")))
}

// startWorkers starts them, and waits for the stream to begin: what is committed before is none of it.
func (h *harness) startWorkers(ctx context.Context) error {
	g := &h.ground
	for i := range h.options.Workers {
		w, err := newWorker(ctx, i+1, h.options, h.dir, h.url, g.redis.URL())
		if err != nil {
			return err
		}
		g.workers = append(g.workers, w)
		h.onClose(func(context.Context) error { return w.close() })
		if err := w.start(ctx, false); err != nil {
			return err
		}
	}
	g.watch = &watch{
		url: h.url, slot: h.slot, changes: h.writing.changes.Load, tell: h.tell, faults: h.faults,
	}
	return h.await(ctx, time.Minute, "the stream", func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		var began bool
		err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM weir.checkpoint)`).Scan(&began)
		return began, err
	})
}

func (h *harness) faults() int {
	h.ground.mu.Lock()
	defer h.ground.mu.Unlock()
	n := 0
	for _, count := range h.ground.counts {
		n += count
	}
	return n
}

// load runs the load and the faults side by side, and mends everything.
func (h *harness) load(ctx context.Context) error {
	h.loaded = time.Now()
	watching, stop := context.WithCancel(ctx)
	var running, watched sync.WaitGroup
	watched.Go(func() { h.ground.watch.run(watching) })
	running.Go(func() { h.ground.carryOut(ctx, NewPlan(h.options)) })
	err := h.writing.run(ctx)
	running.Wait()
	stop()
	watched.Wait()
	if ctx.Err() != nil { // all else follows from it
		return context.Cause(ctx)
	}
	return errors.Join(err, h.ground.mend(context.WithoutCancel(ctx)))
}

// weir runs the command line and returns what it says.
func (h *harness) weir(ctx context.Context, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	args = append(args, "--config", filepath.Join(h.dir, "weir.yaml"), "--no-color")
	cmd := exec.CommandContext(ctx, filepath.Join(h.options.Binaries, "weir"), args...) //nolint:gosec // our own binary
	cmd.Env = append(os.Environ(), "CHAOS_DATABASE="+h.url, "CHAOS_REDIS="+h.ground.redis.URL())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s%v\n", out, err)
	}
	return string(out)
}

// dump is everything about a run that does not come to its end.
func (h *harness) dump(ctx context.Context) string {
	var s strings.Builder
	fmt.Fprintf(&s, "weir status:\n%s\n", h.weir(ctx, "status"))
	for _, w := range h.ground.workers {
		fmt.Fprintf(&s, "worker %d, the end of its log:\n%s\n", w.number, tail(w.log, 4<<10))
	}
	fmt.Fprintf(&s, "PostgreSQL, the end of its log:\n%s\n", h.ground.postgres.Log())
	for _, w := range h.ground.workers { // last: it ends them
		fmt.Fprintf(&s, "worker %d, its goroutines:\n%s\n", w.number, w.traces())
	}
	return s.String()
}
