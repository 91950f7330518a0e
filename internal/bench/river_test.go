package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/worker"
)

// bareRiver is a process that works River's jobs and has nothing of ours around them: what Weir is held against.
type bareRiver struct {
	Database string
	Queues   []string
	Workers  int    // of each queue
	Target   string // where the jobs post Body; "": they say when they began
	Body     string
}

// bareArgs are those of a webhook of Weir's, in a job of the same kind.
type bareArgs struct{ jobs.Args }

// Kind is that of a webhook.
func (bareArgs) Kind() string { return "weir_webhook" }

// startRiver starts such a process. The benchmark's end kills it.
func (r *rig) startRiver(bare bareRiver) *process {
	r.b.Helper()
	bare.Database = r.url
	options, err := json.Marshal(bare)
	check(r.b, err)
	return r.startAs("river", string(options))
}

// workRiver is the process. Its client is set as Weir's is, where that has to do with speed.
func workRiver(ctx context.Context, args []string) error {
	worker.TuneGC() // as cmd/worker
	var bare bareRiver
	if err := json.Unmarshal([]byte(args[0]), &bare); err != nil {
		return err
	}
	cfg, err := pgxpool.ParseConfig(bare.Database)
	if err != nil {
		return err
	}
	cfg.MaxConns = 10 // as the worker's
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	workers, queues := river.NewWorkers(), map[string]river.QueueConfig{}
	for _, name := range bare.Queues {
		queues[name] = river.QueueConfig{MaxWorkers: bare.Workers}
	}
	starts := &starts{out: bufio.NewWriter(os.Stdout)}
	if bare.Target == "" {
		river.AddWorker(workers, starts)
	} else {
		river.AddWorker(workers, newPoster(bare))
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Schema: jobs.Schema, Queues: queues, Workers: workers, FetchCooldown: jobs.FetchCooldown, JobTimeout: -1,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	<-ctx.Done()
	if err := client.Stop(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	return starts.out.Flush()
}

// poster posts.
type poster struct {
	river.WorkerDefaults[bareArgs]
	bare   bareRiver
	client *outbound.Client
}

func newPoster(bare bareRiver) *poster {
	local, err := outbound.ParseTarget("127.0.0.0/8")
	if err != nil {
		panic(err)
	}
	return &poster{bare: bare, client: outbound.New(outbound.Config{Allow: []outbound.Target{local}})}
}

// Work posts the body.
func (p *poster) Work(ctx context.Context, _ *river.Job[bareArgs]) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.bare.Target, strings.NewReader(p.bare.Body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := p.client.Do(req)
	if err == nil && res.Status != http.StatusOK {
		err = fmt.Errorf("status %d", res.Status)
	}
	return err
}

// starts writes down when jobs began, by the number that they have in place of a row's.
type starts struct {
	river.WorkerDefaults[bareArgs]
	mu  sync.Mutex // guards out
	out *bufio.Writer
}

// Work writes a line.
func (s *starts) Work(_ context.Context, job *river.Job[bareArgs]) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := fmt.Fprintln(s.out, job.Args.PK, now.UnixNano())
	return err
}

// inserter is a client that only inserts.
func inserter(b *testing.B) *river.Client[pgx.Tx] {
	b.Helper()
	client, err := river.NewClient(riverpgxv5.New(nil), &river.Config{
		Schema: jobs.Schema, FetchCooldown: jobs.FetchCooldown, Logger: slog.New(slog.DiscardHandler),
	})
	check(b, err)
	return client
}
