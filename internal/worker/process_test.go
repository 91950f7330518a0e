package worker_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/fraiseql/weir/internal/sandbox"
)

// builtWorker is the worker's binary, built once for all tests.
var builtWorker struct {
	once sync.Once
	dir  string // removed by TestMain
	err  error
}

func workerBinary(t *testing.T) string {
	t.Helper()
	b := &builtWorker
	b.once.Do(func() {
		//nolint:usetesting // it outlives the test that builds it
		if b.dir, b.err = os.MkdirTemp("", "weir-worker-"); b.err != nil {
			return
		}
		var out []byte
		build := exec.CommandContext(context.WithoutCancel(t.Context()), "go", "build", "-o", b.dir, "github.com/fraiseql/weir/cmd/worker")
		if out, b.err = build.CombinedOutput(); b.err != nil {
			b.err = fmt.Errorf("build the worker: %w\n%s", b.err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, "worker")
}

// process is a worker in a process of its own.
type process struct {
	*sandbox.Process
	r   *rig
	log *sandbox.Output
}

// spawn starts a worker and waits until it reads the stream, stands by, or rests while that is paused. It is killed when the test ends.
func (r *rig) spawn(t *testing.T, config string) *process {
	t.Helper()
	p := &process{r: r, log: &sandbox.Output{}}
	proc, err := sandbox.StartProcess(context.WithoutCancel(t.Context()), workerBinary(t), []string{"--config", config}, os.Environ(), p.log)
	if err != nil {
		t.Fatal(err)
	}
	p.Process = proc
	t.Cleanup(func() {
		_ = proc.Signal(syscall.SIGCONT)
		if err := proc.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("worker %d:\n%s", proc.PID(), p.log)
		}
	})
	r.await("the worker", func() bool {
		select {
		case <-proc.Exited():
			t.Fatalf("the worker ended:\n%s", p.log)
		default:
		}
		return slices.ContainsFunc([]string{"reading the stream", "standing by", "the stream is paused"}, func(said string) bool {
			return strings.Contains(p.log.String(), said)
		})
	})
	return p
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Fatal(err)
	}
}

var (
	addressInLog = regexp.MustCompile(`address=(\S+)`)
	clientInLog  = regexp.MustCompile(`msg="worker started".* client_id=(\S+)`)
)

// clientID is that of the life that the worker began last.
func (p *process) clientID() string {
	all := clientInLog.FindAllStringSubmatch(p.log.String(), -1)
	return all[len(all)-1][1]
}

// get asks the worker's HTTP server.
func (p *process) get(t *testing.T, path string) answer {
	t.Helper()
	return (&running{addr: addressInLog.FindStringSubmatch(p.log.String())[1]}).get(t, path)
}

// metric is the sum of the series of a metric, as the worker serves it.
func (p *process) metric(t *testing.T, name string) float64 {
	t.Helper()
	return p.sum(t, regexp.MustCompile(`(?m)^`+name+`(?:\{[^}]*\})? (\S+)$`))
}

// series is one series of a metric, written with its labels.
func (p *process) series(t *testing.T, name string) float64 {
	t.Helper()
	return p.sum(t, regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(name)+` (\S+)$`))
}

func (p *process) sum(t *testing.T, series *regexp.Regexp) float64 {
	t.Helper()
	sum := 0.0
	for _, m := range series.FindAllStringSubmatch(p.get(t, "/metrics").body, -1) {
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}
