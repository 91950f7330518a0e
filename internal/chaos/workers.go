package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

const (
	// stopTime bounds a soft stop: shutdown_timeout of the workers, and time for a machine that is busy.
	stopTime = 30 * time.Second
	// restartPause is how long a worker that ended by itself stays away, as under a supervisor.
	restartPause = 500 * time.Millisecond
)

// settings is weir.yaml, the same for all workers. What each of them connects through is in its environment.
const settings = `installation: %[1]s
database: {url: "${CHAOS_DATABASE}"}
source: {slot: %[1]s, heartbeat: 1s, lease: 6s}
redis: {url: "${CHAOS_REDIS}", timeout: %[4]s}
%[2]s
outbound: {allow: ["127.0.0.1"]}
http: {listen: ""}
shutdown_timeout: 3s
endpoints:
  plain: {concurrency: 20, breaker: {min_requests: 10, window: 5s, open_for: 2s}}
  ordered: {concurrency: 20, breaker: {min_requests: 10, window: 5s, open_for: 2s}}
  deduped: {concurrency: 20, breaker: {min_requests: 10, window: 5s, open_for: 2s}}
  changed: {concurrency: 20, breaker: off}
observers:
  plain:
    entity: Order
    retry: {max_attempts: 1000, initial_delay: 200ms, max_delay: 2s}
    actions: [{name: hook, type: webhook, url: "%[3]s/plain", endpoint: plain, timeout: 2s}]
  ordered:
    entity: Customer
    ordering: entity
    on_dead_letter: skip
    retry: {max_attempts: 1000, initial_delay: 200ms, max_delay: 1s}
    actions: [{name: hook, type: webhook, url: "%[3]s/ordered", endpoint: ordered, timeout: 2s}]
  booked:
    entity: Order
    event_type: [INSERT, UPDATE]
    condition: total >= 500
    retry: {max_attempts: 1000, initial_delay: 200ms, max_delay: 2s}
    actions: [{name: book, type: database, function_name: app.book, params: {by: booked}, timeout: 10s}]
  deduped:
    entity: Item
    event_type: [INSERT, UPDATE, DELETE]
    retry: {max_attempts: 1000, initial_delay: 200ms, max_delay: 2s}
    actions:
      - name: hook
        type: webhook
        url: "%[3]s/deduped"
        endpoint: deduped
        timeout: 2s
        dedup: {key: "{{ entity_id }}:{{ data.group }}", window: 12h}
  changed:
    entity: Customer
    event_type: UPDATE
    condition: field_changed_to('status', 'shipped')
    retry: {max_attempts: 1000, initial_delay: 200ms, max_delay: 2s}
    actions:
      - {name: hook, type: webhook, url: "%[3]s/changed", endpoint: changed, timeout: 2s}
      - {name: book, type: database, function_name: app.book, params: {by: changed}, timeout: 10s}
`

// worker is a process that is killed and started again, behind relays of its own.
type worker struct {
	number   int // from 1
	binary   string
	config   string
	log      string // file
	env      []string
	postgres *relay
	redis    *relay

	acts sync.Mutex // one start or end at a time; taken before mu. A stopped process is continued while another waits for its end

	mu      sync.Mutex // guards the rest
	process *sandbox.Process
	meant   bool // its end is our doing
	over    bool // nothing is started any more
	full    bool // its log
	guards  sync.WaitGroup
	fell    []string // how it ended by itself
	stuck   []string // soft stops that did not end
}

// start starts the process unless it runs. full: whatever it writes to its log fails.
func (w *worker) start(ctx context.Context, full bool) error {
	w.acts.Lock()
	defer w.acts.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.running() {
		return nil
	}
	name := w.log
	if full {
		name = "/dev/full"
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	ctx = context.WithoutCancel(ctx)
	// The file itself and no pipe: a worker that is killed loses no line, and a full disk is one.
	process, err := sandbox.StartProcess(ctx, w.binary, []string{"--config", w.config}, w.env, out)
	if err != nil {
		return err
	}
	w.process, w.meant, w.full = process, false, full
	w.guards.Go(func() { w.guard(ctx, process) })
	return nil
}

// running says whether there is a process. The caller holds mu.
func (w *worker) running() bool {
	if w.process == nil {
		return false
	}
	select {
	case <-w.process.Exited():
		return false
	default:
		return true
	}
}

// guard starts a worker again that ended by itself, and remembers it: no fault is a reason to.
func (w *worker) guard(ctx context.Context, process *sandbox.Process) {
	<-process.Exited()
	w.mu.Lock()
	if w.meant || w.over || w.process != process {
		w.mu.Unlock()
		return
	}
	how := fmt.Sprintf("worker %d ended by itself: %v", w.number, process.Wait())
	if !w.full {
		how += "\n" + tail(w.log, 2<<10)
	}
	w.fell = append(w.fell, how)
	w.mu.Unlock()
	time.Sleep(restartPause)
	_ = w.start(ctx, false) // a failure shows as a worker that is not there
}

// ending returns the process that is to end by our doing, nil when there is none.
func (w *worker) ending(forGood bool) *sandbox.Process {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = w.over || forGood
	if !w.running() {
		return nil
	}
	w.meant = true
	return w.process
}

// kill ends the process at once.
func (w *worker) kill() error {
	w.acts.Lock()
	defer w.acts.Unlock()
	if process := w.ending(false); process != nil {
		return process.Kill()
	}
	return nil
}

// terminate is a soft stop; one that does not end is remembered, and ended.
func (w *worker) terminate() error {
	w.acts.Lock()
	defer w.acts.Unlock()
	process := w.ending(false)
	if process == nil {
		return nil
	}
	if err := process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-process.Exited():
		return nil
	case <-time.After(stopTime):
	}
	// Where it hangs is in its log.
	_ = process.Signal(syscall.SIGQUIT)
	select {
	case <-process.Exited():
	case <-time.After(restartPause):
	}
	w.mu.Lock()
	w.stuck = append(w.stuck, fmt.Sprintf("worker %d did not end within %s of SIGTERM", w.number, stopTime))
	w.mu.Unlock()
	return process.Kill()
}

// signal is for SIGSTOP, SIGCONT and SIGQUIT. One that has ended needs none.
func (w *worker) signal(s syscall.Signal) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running() {
		return nil
	}
	if err := w.process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// pid is the process's id, 0 for none.
func (w *worker) pid() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.running() {
		return 0
	}
	return w.process.PID()
}

// logFull says whether the worker runs without a log.
func (w *worker) logFull() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.full && w.running()
}

// traces ends the process for good, and lets it write where its goroutines are.
func (w *worker) traces() string {
	process := w.ending(true)
	if process == nil {
		return "it does not run"
	}
	before := size(w.log)
	_ = process.Signal(syscall.SIGQUIT)
	select {
	case <-process.Exited():
	case <-time.After(stopTime):
	}
	return tail(w.log, size(w.log)-before)
}

func size(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return info.Size()
}

// close ends the process for good.
func (w *worker) close() error {
	var err error
	if process := w.ending(true); process != nil {
		err = process.Kill()
	}
	w.guards.Wait()
	w.postgres.close()
	w.redis.close()
	return err
}

// trouble is what no fault excuses.
func (w *worker) trouble() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append(append([]string{}, w.fell...), w.stuck...)
}

// newWorker makes a worker with its relays, which does not run yet.
func newWorker(ctx context.Context, number int, o Options, dir, databaseURL, redisURL string) (*worker, error) {
	w := &worker{
		number: number, binary: filepath.Join(o.Binaries, "worker"), config: filepath.Join(dir, "weir.yaml"),
		log: filepath.Join(dir, fmt.Sprintf("worker-%d.log", number)),
	}
	var throughPostgres, throughRedis string
	var err error
	if w.postgres, throughPostgres, err = relayTo(ctx, databaseURL); err != nil {
		return nil, err
	}
	if w.redis, throughRedis, err = relayTo(ctx, redisURL); err != nil {
		w.postgres.close()
		return nil, err
	}
	w.env = []string{"CHAOS_DATABASE=" + throughPostgres, "CHAOS_REDIS=" + throughRedis}
	return w, nil
}

// relayTo returns the URL of the same server through a relay.
func relayTo(ctx context.Context, server string) (*relay, string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, "", err
	}
	r, err := newRelay(ctx, u.Host)
	if err != nil {
		return nil, "", err
	}
	u.Host = r.addr()
	return r, u.String(), nil
}

// writeSettings writes weir.yaml.
func writeSettings(dir, name string, o Options, receiver, elasticURL string) error {
	history := fmt.Sprintf("history: {finished_jobs: %s}", o.FinishedJobs)
	if elasticURL != "" {
		history = fmt.Sprintf("elasticsearch: {urls: [%q]}\nhistory: {store: both, finished_jobs: %s}", elasticURL, o.FinishedJobs)
	}
	// Without faults every pair of deliveries with one key is held to one call: a busy machine is no reason to go on without Redis.
	redisTimeout := "100ms"
	if o.Quiet {
		redisTimeout = "5s"
	}
	text := fmt.Sprintf(settings, name, history, "http://"+receiver, redisTimeout)
	return os.WriteFile(filepath.Join(dir, "weir.yaml"), []byte(text), 0o600)
}

// tail is the end of a file.
func tail(file string, most int64) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	text, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-most), most))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}
