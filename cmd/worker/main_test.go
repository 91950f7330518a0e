package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/sandbox"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(postgres.Main(m)) }

// runUntil runs the worker and, once its output contains the text, asks it to stop. An empty text is never contained.
func runUntil(t *testing.T, text string, lookup func(string) (string, bool), args ...string) (code int, stderr string) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var out sandbox.Output
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, args, lookup, nil, &out, &out) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case code = <-ended:
			if text != "" && !strings.Contains(out.String(), text) {
				t.Errorf("exit %d before it said %q:\n%s", code, text, out.String())
			}
			return code, out.String()
		case <-tick.C:
			if text != "" && strings.Contains(out.String(), text) {
				stop()
			}
		}
	}
}

func noEnv(string) (string, bool) { return "", false }

// write makes a configuration file.
func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// minimal is a configuration for the database.
func minimal(databaseURL string) string {
	return fmt.Sprintf("database: {url: %q}\nsource: {slot: weir_%s}\nhttp: {listen: \"\"}\n", databaseURL, strings.ToLower(rand.Text()))
}

func TestUsage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-nonsense"}, 2, "flag provided but not defined: -nonsense"},
		{[]string{"-config"}, 2, "flag needs an argument"},
		{[]string{"-version=maybe"}, 2, "invalid boolean value"},
		{[]string{"weir.yaml"}, 2, `unexpected argument "weir.yaml"; see worker -help`},
		{[]string{"-help"}, 0, "the configuration file"},
		{[]string{"--version"}, 0, "weir worker dev"},
		{[]string{"-version", "-config", "/nowhere"}, 0, "weir worker dev"},
	}
	for _, tt := range tests {
		code, stderr := runUntil(t, "", noEnv, tt.args...)
		if code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: exit %d, want %d with %q:\n%s", tt.args, code, tt.code, tt.want, stderr)
		}
	}
}

const database = "database: {url: postgres://weir@127.0.0.1:1/weir}\n" // line 1 of the files below

// A configuration that is not right ends the worker with exit code 3, and says where and what.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	observer := func(lines ...string) string {
		return database + "observers:\n  o:\n    entity: Order\n    " + strings.Join(lines, "\n    ") + "\n"
	}
	const actions = "actions: [{type: log}]"
	tests := map[string]struct{ text, place, want string }{
		"unknown key":          {observer("entitee: Order", actions), "5:5", `unknown key "entitee" in observers.o`},
		"unknown top key":      {database + "observer: {}\n", "2:1", `unknown key "observer"`},
		"bad duration":         {database + "shutdown_timeout: 30 seconds\n", "2:19", "is not a duration"},
		"bad condition":        {observer("condition: total >", actions), "5:16", "unexpected end of the expression"},
		"missing entity":       {database + "observers:\n  o:\n    " + actions + "\n", "4:5", `key "entity" is missing`},
		"missing url":          {observer("actions: [{type: webhook}]"), "5:15", "webhook needs url or url_env"},
		"unknown type":         {observer("actions: [{type: carrier-pigeon}]"), "5:22", "is no type of action"},
		"unset secret":         {observer(`actions: [{type: webhook, url: "https://a.example/", signing_secret_env: NOT_SET}]`), "5:78", "NOT_SET is not set"},
		"unset variable":       {"database: {url: \"${NOT_SET}\"}\n", "1:18", "NOT_SET is not set"},
		"unquoted !":           {observer("condition: !paid", actions), "5:16", "put quotes round the value"},
		"unquoted {{":          {observer("actions:", "  - type: log", "    message_template: {{ total }}"), "7:27", "put quotes round the value"},
		"bad template":         {observer(`actions: [{type: log, message_template: "{{ total"}]`), "5:45", "{{ is not closed"},
		"no database":          {"observers: {}\n", "1:1", "database.url is missing"},
		"broken YAML":          {database + "observers: [\n", "2:12", "this is not YAML"},
		"a bad listen address": {database + "http: {listen: nowhere}\n", "2:16", "host:port"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, tt.text)
			code, stderr := runUntil(t, "", noEnv, "-config", path)
			if code != 3 || !strings.HasPrefix(stderr, path+":"+tt.place+": ") || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit %d, want 3 at %s with %q:\n%s", code, tt.place, tt.want, stderr)
			}
			line := strings.Split(tt.text, "\n")[tt.place[0]-'1']
			if !strings.Contains(stderr, "| "+line+"\n") {
				t.Errorf("the offending line is missing:\n%s", stderr)
			}
		})
	}
}

// The file may be named by the environment. One that is not there is a mistake of the configuration, too.
func TestConfigurationIsFound(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	named := func(name string) (string, bool) { return missing, name == "WEIR_CONFIG" }
	for _, args := range [][]string{nil, {"-config", missing}} {
		if code, stderr := runUntil(t, "", named, args...); code != 3 || !strings.Contains(stderr, missing) {
			t.Errorf("%v: exit %d, want 3:\n%s", args, code, stderr)
		}
	}
	bad := write(t, "observer: {}\n")
	if code, stderr := runUntil(t, "", named, "-config", bad); code != 3 || !strings.HasPrefix(stderr, bad) {
		t.Errorf("-config does not win: exit %d:\n%s", code, stderr)
	}
}

// What waiting does not cure ends the worker with exit code 1 and with the statement that mends it.
func TestWrongDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	refused := func(t *testing.T, databaseURL, want string) {
		t.Helper()
		code, stderr := runUntil(t, "", noEnv, "-config", write(t, minimal(databaseURL)))
		if code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("exit %d, want 1 with %q:\n%s", code, want, stderr)
		}
	}
	t.Run("wal_level", func(t *testing.T) {
		t.Parallel()
		server, err := sandbox.StartPostgres(t.Context(), sandbox.PostgresOptions{Settings: map[string]string{"wal_level": "replica"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
		refused(t, server.TestDatabase(t), "wal_level is replica, logical replication needs logical; to mend it: "+
			"ALTER SYSTEM SET wal_level = 'logical'; -- then restart PostgreSQL")
	})
	t.Run("not migrated", func(t *testing.T) {
		t.Parallel()
		refused(t, postgres.EmptyDatabase(t), "to mend it: weir migrate up")
	})
	t.Run("may not replicate", func(t *testing.T) {
		t.Parallel()
		databaseURL, role := withoutReplication(t, postgres.Database(t))
		refused(t, databaseURL, "to mend it: ALTER ROLE "+`\"`+role+`\" REPLICATION;`)
	})
}

// withoutReplication makes a role that may do everything in the database but replicate.
func withoutReplication(t *testing.T, databaseURL string) (roleURL, role string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	role = "weir_" + strings.ToLower(rand.Text()[:12])
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if _, err := conn.Exec(ctx, "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
		_ = conn.Close(ctx)
	})
	owner := pgx.Identifier{conn.Config().User}.Sanitize()
	if _, err := conn.Exec(t.Context(), "CREATE ROLE "+role+" LOGIN PASSWORD 'hush'; GRANT "+owner+" TO "+role); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "hush")
	return u.String(), role
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	path := write(t, fmt.Sprintf(database+"http: {listen: %q}\n", taken.Addr()))
	if code, stderr := runUntil(t, "", noEnv, "-config", path); code != 1 || !strings.Contains(stderr, "http.listen") {
		t.Errorf("exit %d, want 1:\n%s", code, stderr)
	}
}

// A stop that was asked for is no failure: not while the worker works, nor while it waits for its database.
func TestStop(t *testing.T) {
	t.Parallel()
	t.Run("working", func(t *testing.T) {
		t.Parallel()
		path := write(t, minimal(postgres.Database(t)))
		code, stderr := runUntil(t, "worker started", noEnv, "-config", path)
		if code != 0 || !strings.Contains(stderr, "worker stopped") || strings.Contains(stderr, "ERROR") {
			t.Errorf("exit %d, want 0:\n%s", code, stderr)
		}
	})
	t.Run("waiting for the database", func(t *testing.T) {
		t.Parallel()
		code, stderr := runUntil(t, "waiting for it", noEnv, "-config", write(t, database+"http: {listen: \"\"}\n"))
		if code != 0 || strings.Contains(stderr, "ERROR") {
			t.Errorf("exit %d, want 0:\n%s", code, stderr)
		}
	})
}

// What is allowed but unwise is said, and the worker goes on.
func TestWarningsAreLogged(t *testing.T) {
	t.Parallel()
	path := write(t, database+`http: {listen: ""}
observers:
  o: {entity: Order, actions: [{type: webhook, url: "https://a.example/", signing_secret: hush-hush-hush}]}
`)
	code, stderr := runUntil(t, "waiting for it", noEnv, "-config", path)
	if code != 0 || !strings.Contains(stderr, "level=WARN msg=configuration") || !strings.Contains(stderr, "weir.yaml:4:") {
		t.Errorf("exit %d, want 0 and a warning with its place:\n%s", code, stderr)
	}
	if strings.Contains(stderr, "hush-hush") {
		t.Errorf("the secret is in the log:\n%s", stderr)
	}
}
