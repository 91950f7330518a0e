// Package deploy_test tests what is deployed beside the programs: alerts, dashboard, configurations.
package deploy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/sandbox"
)

// A slot that may hold 128 MB can be brought near to being lost.
var postgres = sandbox.Suite{Options: sandbox.PostgresOptions{Settings: map[string]string{"max_slot_wal_keep_size": "128MB"}}}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(postgres.Main(m), goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(programs.dir)
		os.Exit(code)
	}))
}

// programs are worker and weir, built once for all tests.
var programs struct {
	once sync.Once
	dir  string // removed by TestMain
	err  error
}

func program(t *testing.T, name string) (path string) {
	t.Helper()
	b := &programs
	b.once.Do(func() {
		//nolint:usetesting // it outlives the test that builds them
		if b.dir, b.err = os.MkdirTemp("", "weir-programs-"); b.err != nil {
			return
		}
		var out []byte
		build := exec.CommandContext(context.WithoutCancel(t.Context()), "go", "build", "-o", b.dir,
			"github.com/fraiseql/weir/cmd/worker", "github.com/fraiseql/weir/cmd/weir")
		if out, b.err = build.CombinedOutput(); b.err != nil {
			b.err = fmt.Errorf("build the programs: %w\n%s", b.err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.dir, name)
}

// installed is the path of a program that is not ours.
func installed(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not there: install Prometheus, on Debian with apt-get install prometheus (make test as root does so)", name)
	}
	return path
}

// await polls for what other processes do; nothing signals it.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// freePort is one that nobody listens on.
func freePort(t *testing.T) (address string) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// spawn starts a process that is killed when the test ends.
func spawn(t *testing.T, name string, args ...string) (*sandbox.Process, *sandbox.Output) {
	t.Helper()
	out := &sandbox.Output{}
	p, err := sandbox.StartProcess(context.WithoutCancel(t.Context()), name, args, nil, out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(name), out)
		}
	})
	return p, out
}

// get is the body of an answer, "" when there is none.
func get(t *testing.T, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(body)
}

// installation is a worker on a database of its own.
type installation struct {
	t       *testing.T
	name    string
	url     string
	slot    string
	conn    *pgx.Conn
	address string // of its metrics
	path    string // of its configuration
	process *sandbox.Process
}

// install prepares a database. source is more of that section of the configuration, and rest what else is to be in the file.
func install(t *testing.T, name, source, rest string, sql ...string) *installation {
	t.Helper()
	in := &installation{t: t, name: name, url: postgres.Database(t), address: freePort(t)}
	u, err := url.Parse(in.url)
	if err != nil {
		t.Fatal(err)
	}
	in.slot = strings.TrimPrefix(u.Path, "/")
	if in.conn, err = pgx.Connect(t.Context(), in.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.conn.Close(context.WithoutCancel(t.Context())) })
	for _, statement := range sql {
		in.exec(statement)
	}
	in.path = filepath.Join(t.TempDir(), "weir.yaml")
	in.configure(fmt.Sprintf("installation: %s\ndatabase: {url: %q}\nhttp: {listen: %q}\nshutdown_timeout: 1s\n"+
		"source: {slot: %s, heartbeat: 1s%s}\n%s", name, in.url, in.address, in.slot, source, rest))
	in.start()
	return in
}

func (in *installation) configure(text string) {
	in.t.Helper()
	if err := os.WriteFile(in.path, []byte(text), 0o600); err != nil {
		in.t.Fatal(err)
	}
}

func (in *installation) start() {
	in.t.Helper()
	in.process, _ = spawn(in.t, program(in.t, "worker"), "--config", in.path)
	await(in.t, "worker "+in.name, func() bool { return strings.Contains(get(in.t, "http://"+in.address+"/readyz"), `"ready":true`) })
}

func (in *installation) exec(sql string, args ...any) {
	in.t.Helper()
	if _, err := in.conn.Exec(in.t.Context(), sql, args...); err != nil {
		in.t.Fatalf("%s: %v", sql, err)
	}
}

// log commits rows of the change log.
func (in *installation) log(entity string, rows int) {
	in.t.Helper()
	in.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT $1, 'INSERT', gen_random_uuid(), '{}' FROM generate_series(1, $2)`, entity, rows)
}

// dropSlot takes the slot away from whoever reads it.
func (in *installation) dropSlot() {
	in.t.Helper()
	await(in.t, "the slot to be gone", func() bool {
		in.endReader()
		_, err := in.conn.Exec(in.t.Context(), "SELECT pg_drop_replication_slot($1)", in.slot)
		return err == nil
	})
}

func (in *installation) endReader() {
	in.t.Helper()
	in.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active", in.slot)
}

// weir runs the command line.
func (in *installation) weir(args ...string) {
	in.t.Helper()
	cmd := exec.CommandContext(in.t.Context(), program(in.t, "weir"), append(args, "--config", in.path)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		in.t.Errorf("weir %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
