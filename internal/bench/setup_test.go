package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/worker"
)

// roleVariable says what this process is, when it is not the benchmark itself.
const roleVariable = "WEIR_BENCH_ROLE"

// servers are durable, as a production server is: what is compared with PostgreSQL's own speed waits for the disk as often.
var servers = sandbox.Suite{Options: sandbox.PostgresOptions{Durable: true, Settings: map[string]string{
	"max_wal_size": "8GB", "shared_buffers": "512MB", "checkpoint_timeout": "30min", "wal_compression": "off",
	"shared_preload_libraries": "pg_stat_statements",
}}}

// roles are what the test binary can be beside the benchmark.
var roles = map[string]func(ctx context.Context, args []string) error{
	"worker": profiledWorker,
	"stream": bareStream,
	"river":  workRiver,
	"pour":   pourAgain,
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	code := servers.Main(m).Run()
	_ = os.RemoveAll(builtWorker.dir)
	os.Exit(code)
}

// play is the main of a process that has a role.
func play(role string) (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // this is a main, too
	defer stop()
	if err := profiled(role, func() error { return roles[role](ctx, os.Args[1:]) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// profiledWorker is cmd/worker. It is called with the configuration's path, and with one argument more where it is to register no
// metrics.
func profiledWorker(ctx context.Context, args []string) error {
	worker.TuneGC() // as cmd/worker
	cfg, err := config.Load(ctx, config.Options{Path: args[0]})
	if err != nil {
		return err
	}
	var level slog.LevelVar
	options := worker.Options{Logger: cfg.Log.Logger(os.Stderr, &level), Version: "bench"}
	if len(args) > 1 {
		options.Registerer = discarding{}
	}
	return worker.New(cfg, options).Run(ctx)
}

// profiled runs a role with a profile of the processor and, at its end, of what was allocated, if they are wanted.
func profiled(role string, run func() error) error {
	dir := os.Getenv(profileVariable)
	if dir == "" {
		return run()
	}
	name := filepath.Join(dir, fmt.Sprintf("%s-%d", role, os.Getpid()))
	out, err := os.Create(name + ".cpu.prof")
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return err
	}
	defer func() {
		pprof.StopCPUProfile()
		_ = out.Close()
		if out, err := os.Create(name + ".allocs.prof"); err == nil {
			_ = pprof.Lookup("allocs").WriteTo(out, 0)
			_ = out.Close()
		}
	}()
	return run()
}

// builtWorker is the worker's binary, built once.
var builtWorker struct {
	once sync.Once
	dir  string // removed by TestMain
	err  error
}

func workerBinary(b *testing.B) string {
	b.Helper()
	w := &builtWorker
	w.once.Do(func() {
		//nolint:usetesting // it outlives the benchmark that builds it
		if w.dir, w.err = os.MkdirTemp("", "weir-worker-"); w.err != nil {
			return
		}
		out, err := exec.Command("go", "build", "-trimpath", "-o", w.dir, "github.com/fraiseql/weir/cmd/worker").CombinedOutput()
		if err != nil {
			w.err = fmt.Errorf("build the worker: %w\n%s", err, out)
		}
	})
	if w.err != nil {
		b.Fatal(w.err)
	}
	return filepath.Join(w.dir, "worker")
}

// rig is a migrated database of its own. Its name is also that of the slot.
type rig struct {
	b    *testing.B
	url  string
	slot string
	conn *pgx.Conn
}

func newRig(b *testing.B) *rig {
	b.Helper()
	r := &rig{b: b, url: servers.Database(b)}
	u, err := url.Parse(r.url)
	check(b, err)
	r.slot = strings.TrimPrefix(u.Path, "/")
	r.conn = r.connect()
	if dir := os.Getenv(profileVariable); dir != "" {
		r.exec("CREATE EXTENSION pg_stat_statements")
		b.Cleanup(func() { r.writeStatements(filepath.Join(dir, r.slot+".statements.txt")) })
	}
	return r
}

// writeStatements writes down in which statements the server's time went.
func (r *rig) writeStatements(path string) {
	r.b.Helper()
	ctx := context.WithoutCancel(r.b.Context())
	rows, err := r.conn.Query(ctx, `
		SELECT format('%8s calls %9s ms in all %8s ms each %9s rows %10s B of WAL  %s', calls, total_exec_time::numeric(9, 1),
		       mean_exec_time::numeric(8, 3), rows, wal_bytes, left(regexp_replace(query, '\s+', ' ', 'g'), 160))
		  FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = current_database()
		 ORDER BY total_exec_time DESC LIMIT 40`)
	check(r.b, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	check(r.b, err)
	check(r.b, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
}

// connect opens a connection that is closed at the benchmark's end.
func (r *rig) connect() *pgx.Conn {
	r.b.Helper()
	conn, err := pgx.Connect(r.b.Context(), r.url)
	check(r.b, err)
	r.b.Cleanup(func() { _ = conn.Close(context.WithoutCancel(r.b.Context())) })
	return conn
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) exec(sql string, args ...any) {
	r.b.Helper()
	_, err := r.conn.Exec(r.b.Context(), sql, args...)
	check(r.b, err)
}

// number is the result of a query that gives one.
func (r *rig) number(sql string, args ...any) (n float64) {
	r.b.Helper()
	check(r.b, r.conn.QueryRow(r.b.Context(), "SELECT ("+sql+")::float8", args...).Scan(&n))
	return n
}

// wal is how many bytes of WAL the server has written so far.
func (r *rig) wal() float64 {
	r.b.Helper()
	return r.number("pg_current_wal_insert_lsn() - '0/0'")
}

// await asks fifty times in a second.
func (r *rig) await(what string, done func() bool) {
	r.b.Helper()
	for deadline := time.Now().Add(10 * time.Minute); !done(); {
		if time.Now().After(deadline) {
			r.b.Fatalf("still waiting for %s", what)
		}
		time.Sleep(20 * time.Millisecond) // the question is work, too, of the same two processors
	}
}

// changes commits rows of the change log of about 500 bytes each, in transactions of so many rows.
func (r *rig) changes(entity string, rows, each int) {
	r.b.Helper()
	r.exec("SET synchronous_commit = off") // what is measured comes later
	defer r.exec("RESET synchronous_commit")
	r.exec(fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
			INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
			SELECT '%s', 'INSERT', gen_random_uuid(), jsonb_build_object('total', n, 'status', 'shipped', 'note', repeat('x', 430))
			  FROM generate_series(1, %d) n;
			COMMIT;
		END LOOP; END $$`, rows/each, entity, each))
}

// write puts a configuration into a file. It gets the database, the slot and an address.
func (r *rig) write(yaml string) (path string) {
	r.b.Helper()
	path = filepath.Join(r.b.TempDir(), "weir.yaml")
	yaml = fmt.Sprintf("database: {url: %q}\nsource: {slot: %s}\nhttp: {listen: \"127.0.0.1:0\"}\nlog: {level: info}\n%s",
		r.url, r.slot, yaml)
	check(r.b, os.WriteFile(path, []byte(yaml), 0o600))
	return path
}

// process is a worker in a process of its own.
type process struct {
	*sandbox.Process
	b   *testing.B
	log *sandbox.Output
}

// start starts a worker, and returns at once. The benchmark's end kills it.
func (r *rig) start(path string) *process {
	r.b.Helper()
	if os.Getenv(profileVariable) != "" {
		return r.startAs("worker", path)
	}
	return r.run(workerBinary(r.b), []string{"--config", path}, nil)
}

// startAs starts the test binary in one of its roles.
func (r *rig) startAs(role string, args ...string) *process {
	r.b.Helper()
	return r.run(os.Args[0], args, []string{roleVariable + "=" + role})
}

func (r *rig) run(name string, args, env []string) *process {
	r.b.Helper()
	p := &process{b: r.b, log: &sandbox.Output{}}
	var err error
	p.Process, err = sandbox.StartProcess(context.WithoutCancel(r.b.Context()), name, args, env, p.log)
	check(r.b, err)
	r.b.Cleanup(func() {
		_ = p.Kill()
		if r.b.Failed() {
			r.b.Logf("worker:\n%s", p.log)
		}
	})
	return p
}

// reads waits until the worker reads the stream.
func (r *rig) reads(p *process) *process {
	r.b.Helper()
	r.await("the worker", func() bool {
		select {
		case <-p.Exited():
			r.b.Fatalf("the worker ended:\n%s", p.log)
		default:
		}
		return strings.Contains(p.log.String(), "reading the stream")
	})
	return p
}

// makeSlot has a worker make slot and checkpoint.
func (r *rig) makeSlot(path string) {
	r.b.Helper()
	r.reads(r.start(path)).stop()
}

// makePaused is makeSlot, and pauses all deliveries: jobs wait in their queues.
func (r *rig) makePaused(path string) {
	r.b.Helper()
	r.makeSlot(path)
	r.exec("INSERT INTO weir.pause (scope) VALUES ('deliveries')")
}

// stop ends the worker softly.
func (p *process) stop() {
	p.b.Helper()
	check(p.b, p.Signal(syscall.SIGTERM))
	if err := p.Wait(); err != nil {
		p.b.Fatalf("the worker: %v\n%s", err, p.log)
	}
}

var addressInLog = regexp.MustCompile(`address=(\S+)`)

// metrics are all that the worker serves.
func (p *process) metrics() map[string]*dto.MetricFamily {
	p.b.Helper()
	families, err := p.scraped(p.b.Context())
	check(p.b, err)
	return families
}

func (p *process) scraped(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+addressInLog.FindStringSubmatch(p.log.String())[1]+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(resp.Body)
}

// allocated is what the worker has allocated since its start: objects and bytes.
func (p *process) allocated() (objects, bytes float64) {
	p.b.Helper()
	m := p.metrics()
	counter := func(name string) float64 { return m[name].GetMetric()[0].GetCounter().GetValue() }
	return counter("go_memstats_mallocs_total"), counter("go_memstats_alloc_bytes_total")
}

// ticks is the unit of /proc's processor times, per second (getconf CLK_TCK: 100 wherever Linux runs Go).
const ticks = 100

// cpu is the processor time that a process has used so far.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(b, err)
	sum := 0
	for _, field := range strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[11:13] { // utime, stime
		n, err := strconv.Atoi(field)
		check(b, err)
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks
}

// used is the processor time of all threads so far, to the nanosecond: cpu counts hundredths of a second.
func (p *process) used() (sum time.Duration) {
	p.b.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.PID()))
	check(p.b, err)
	for _, path := range threads {
		text, err := os.ReadFile(path)
		check(p.b, err)
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(first, 10, 64)
		check(p.b, err)
		sum += time.Duration(ns)
	}
	return sum
}

// resident is the most memory that the process has occupied, in bytes.
func (p *process) resident() float64 {
	p.b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	check(p.b, err)
	kb, err := strconv.ParseFloat(regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(string(status))[1], 64)
	check(p.b, err)
	return kb * 1024
}

// figures reports what a sub-benchmark that ran once has found, and nothing else.
func figures(b *testing.B, byUnit map[string]float64) {
	b.Helper()
	b.ReportMetric(0, "ns/op")
	for unit, x := range byUnit {
		b.ReportMetric(x, unit)
	}
}

func full() bool { return os.Getenv(fullVariable) == "1" }
