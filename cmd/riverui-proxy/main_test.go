package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/sandbox"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(cleaned{postgres.Main(m)}) }

// cleaned removes what the tests have built.
type cleaned struct{ sandbox.Runner }

func (c cleaned) Run() int {
	defer func() { _ = os.RemoveAll(built) }()
	return c.Runner.Run()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// env is an environment of these variables.
func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

// write makes a configuration file.
func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "weir.yaml")
	check(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

const elsewhere = "database: {url: \"postgres://weir:hunter2@127.0.0.1:1/weir\"}\n" // line 1 of the files below

// What is wrong before anything is served: wrong use, or a configuration that is refused.
func TestRefused(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	public := write(t, elsewhere+"console: {listen: \":0\"}\n")
	protected := write(t, elsewhere+"console: {listen: \":0\", basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}}\n")
	unknown := write(t, elsewhere+"console: {reed_only: true}\n")
	for name, tt := range map[string]struct {
		args []string
		vars map[string]string
		code int
		want string
	}{
		"flag":             {[]string{"-nonsense"}, nil, 2, "flag provided but not defined: -nonsense"},
		"argument":         {[]string{"weir.yaml"}, nil, 2, `unexpected argument "weir.yaml"; see riverui-proxy -help`},
		"help":             {[]string{"-help"}, nil, 0, "the configuration file"},
		"version":          {[]string{"--version", "--config", "/nowhere"}, nil, 0, "weir riverui-proxy dev"},
		"no database":      {nil, nil, 3, "no database: set DATABASE_URL"},
		"no URL":           {nil, map[string]string{"DATABASE_URL": "mysql://u:hunter2@h/d"}, 3, "DATABASE_URL: this is no PostgreSQL URL"},
		"no URL by flag":   {[]string{"--database-url", "hunter2"}, nil, 3, "this is no PostgreSQL URL"},
		"no file":          {[]string{"--config", missing}, nil, 3, missing},
		"no file by name":  {nil, map[string]string{"WEIR_CONFIG": missing}, 3, missing},
		"unknown key":      {[]string{"--config", unknown}, nil, 3, unknown + ":2:11: unknown key \"reed_only\" in console: did you mean read_only?"},
		"public address":   {[]string{"--config", public}, nil, 3, public + ":2:19: :0 can be reached from other machines, and anybody would be let in"},
		"unset password":   {[]string{"--config", protected}, nil, 3, "environment variable CONSOLE_PASSWORD is not set: set it to the console's password"},
		"file without URL": {[]string{"--config", write(t, "observers: {}\n")}, nil, 3, "database.url is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			code := run(t.Context(), tt.args, env(tt.vars), &out, &out)
			if code != tt.code || !strings.Contains(out.String(), tt.want) {
				t.Errorf("exit %d, want %d with %q:\n%s", code, tt.code, tt.want, out.String())
			}
			if strings.Contains(out.String(), "hunter2") {
				t.Errorf("a password got out:\n%s", out.String())
			}
		})
	}
}

// The console needs a database and its own password; what the workers need is not asked for.
func TestLoad(t *testing.T) {
	t.Parallel()
	worker := write(t, `database: {url: "${DATABASE_URL}"}
source: {url: "${SOURCE_URL:-}"}
console: {basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}}
observers:
  o: {entity: Order, actions: [{type: webhook, url: "https://${HOST}/", signing_secret_env: ERP_SECRET}]}
`)
	const named, flagged = "postgres://named/app", "postgres://flag/app"
	vars := map[string]string{"DATABASE_URL": named, "CONSOLE_PASSWORD": "x"}
	for _, tt := range []struct{ path, flag, want string }{
		{"", "", named},
		{"", flagged, flagged},
		{worker, "", named},
		{worker, flagged, flagged},
		{write(t, elsewhere), flagged, flagged},
		{write(t, "observers: {}\n"), "", named},
		{write(t, elsewhere), "", "postgres://weir:hunter2@127.0.0.1:1/weir"},
	} {
		cfg, err := load(t.Context(), tt.path, tt.flag, env(vars))
		check(t, err)
		if cfg.Database.URL.Value() != tt.want || cfg.Source.URL != cfg.Database.URL || cfg.Console.Listen != "127.0.0.1:8080" {
			t.Errorf("%+v: got %s", tt, cfg.Database.URL.Value())
		}
	}
	vars["SOURCE_URL"] = "postgres://source/app"
	cfg, err := load(t.Context(), worker, flagged, env(vars))
	check(t, err)
	if cfg.Source.URL.Value() != "postgres://source/app" {
		t.Errorf("source.url = %s", cfg.Source.URL.Value())
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	p := start(t, "")
	path := write(t, elsewhere+fmt.Sprintf("console: {listen: %q}\n", strings.TrimPrefix(p.url, "http://")))
	var out bytes.Buffer
	if code := run(t.Context(), []string{"--config", path}, env(nil), &out, &out); code != 1 || !strings.Contains(out.String(), "console.listen") {
		t.Errorf("exit %d:\n%s", code, out.String())
	}
	p.signal(syscall.SIGTERM)
	check(t, <-p.ended)
}

// process is the program, built and started.
type process struct {
	*exec.Cmd
	t     *testing.T
	url   string
	log   *sandbox.Output
	ended chan error
}

// built is the folder with the program, once a test has asked for it.
var built string

var build = sync.OnceValues(func() (path string, err error) {
	if built, err = os.MkdirTemp("", "weir-proxy-"); err != nil {
		return "", err
	}
	path = filepath.Join(built, "riverui-proxy")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

// start runs the program on a database of the test's own, with what stands in the braces of `console:` beside listen.
func start(t *testing.T, keys string) *process {
	t.Helper()
	path, err := build()
	check(t, err)
	p := &process{t: t, log: &sandbox.Output{}, ended: make(chan error, 1)}
	p.Cmd = exec.CommandContext(context.WithoutCancel(t.Context()), path, "--config", write(t, "console: {listen: \"127.0.0.1:0\", "+keys+"}\n"))
	p.Env = append(os.Environ(), "DATABASE_URL="+postgres.Database(t), "CONSOLE_PASSWORD=hunter2-of-the-console")
	p.Stdout, p.Stderr = p.log, p.log
	check(t, p.Start())
	t.Cleanup(func() { _ = p.Process.Kill() })
	go func() { p.ended <- p.Wait() }()
	address := regexp.MustCompile(`serving the console" address=(\S+)`)
	p.await("an address", func() bool { return address.MatchString(p.log.String()) })
	p.url = "http://" + address.FindStringSubmatch(p.log.String())[1]
	return p
}

func (p *process) await(what string, holds func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			p.t.Fatalf("waited too long for %s:\n%s", what, p.log)
		case <-tick.C:
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	check(p.t, p.Process.Signal(s))
}

// request asks the program; nobody is known without a password.
func (p *process) request(method, path, user, password string) (status int, text string, err error) {
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, nil)
	check(p.t, err)
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw), err
}

// The program as it is run: it asks who one is, shows jobs, refuses to change any, and ends when it is told to.
func TestProcess(t *testing.T) {
	t.Parallel()
	p := start(t, "prefix: /weir, read_only: true, basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}")
	for _, tt := range []struct {
		method, path, user, password string
		status                       int
	}{
		{http.MethodGet, "/healthz", "", "", http.StatusOK},
		{http.MethodGet, "/weir/river/api/jobs", "", "", http.StatusUnauthorized},
		{http.MethodGet, "/weir/river/api/jobs", "ops", "hunter2", http.StatusUnauthorized},
		{http.MethodGet, "/weir/river/api/jobs", "ops", "hunter2-of-the-console", http.StatusOK},
		{http.MethodGet, "/weir/metrics", "ops", "hunter2-of-the-console", http.StatusOK},
		{http.MethodPost, "/weir/river/api/jobs/retry", "ops", "hunter2-of-the-console", http.StatusForbidden},
	} {
		if status, text, err := p.request(tt.method, tt.path, tt.user, tt.password); status != tt.status {
			t.Errorf("%+v: %d %v\n%s", tt, status, err, text)
		}
	}
	p.signal(syscall.SIGTERM)
	if err := <-p.ended; err != nil || !strings.Contains(p.log.String(), "console stopped") {
		t.Errorf("%v:\n%s", err, p.log)
	}
	if strings.Contains(p.log.String(), "hunter2") {
		t.Errorf("a password in the log:\n%s", p.log)
	}
}

// The first signal waits for a request that runs, the second does not.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	p := start(t, "")
	conn, err := pgx.Connect(t.Context(), databaseOf(p))
	check(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	_, err = conn.Exec(t.Context(), "BEGIN; LOCK TABLE weir.river_job IN ACCESS EXCLUSIVE MODE")
	check(t, err)
	answered := make(chan error, 1)
	go func() {
		_, _, err := p.request(http.MethodGet, "/river/api/jobs/1", "", "")
		answered <- err
	}()
	p.await("the request to wait", func() bool {
		var waiting bool
		check(t, conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks "+
			"WHERE NOT granted AND relation = 'weir.river_job'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))").Scan(&waiting))
		return waiting
	})
	p.signal(os.Interrupt)
	p.await("the stop", func() bool { return strings.Contains(p.log.String(), "running requests may end") })
	select {
	case err := <-p.ended:
		t.Fatalf("ended while a request ran: %v\n%s", err, p.log)
	default:
	}
	p.signal(os.Interrupt)
	var exit *exec.ExitError
	if err := <-p.ended; !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
		t.Errorf("got %v\n%s", err, p.log)
	}
	if err := <-answered; err == nil {
		t.Error("the request was answered")
	}
}

func databaseOf(p *process) string {
	for _, v := range p.Env {
		if url, ok := strings.CutPrefix(v, "DATABASE_URL="); ok {
			return url
		}
	}
	return ""
}
