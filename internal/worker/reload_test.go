package worker_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/worker"
)

// rewrite replaces a file as an editor does: a new one is moved over it.
func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// A file that changes is in force without a restart, also for deliveries that are queued already. One that is bad changes
// nothing, and says so where people look.
func TestReload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	down := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	up := newReceiver(t, nil)
	const secret = "hush-hush-hush"
	retry := "retry: {initial_delay: 500ms, backoff: fixed}"
	path := r.write(hook(down.URL, ", signing_secret: "+secret, retry))
	w := r.spawn(t, path)
	good := read(t, path)
	r.order(`{"n": 1}`)
	r.await("a failed attempt", func() bool { return len(down.seen()) > 0 })

	rewrite(t, path, strings.Replace(good, "entity: Order", "entitee: Order", 1))
	r.await("the refusal", func() bool { return r.one("SELECT config_error FROM weir.worker") != "" })
	if got := r.one("SELECT config_error FROM weir.worker"); !strings.HasPrefix(got, path+":9:5: ") || !strings.Contains(got, `unknown key "entitee"`) {
		t.Errorf("weir.worker says %q", got)
	}
	if n := w.metric(t, "weir_config_last_reload_successful"); n != 0 {
		t.Errorf("weir_config_last_reload_successful is %v", n)
	}
	if n := w.metric(t, `weir_config_reloads_total`); n != 1 {
		t.Errorf("weir_config_reloads_total is %v after one refusal", n)
	}
	if ready := w.get(t, "/readyz"); ready.code != http.StatusOK || !strings.Contains(ready.body, "entitee") {
		t.Errorf("/readyz: %d %s", ready.code, ready.body)
	}
	before := len(down.seen())
	r.await("deliveries with the old one", func() bool { return len(down.seen()) > before })

	rewrite(t, path, strings.Replace(good, down.URL, up.URL, 1))
	r.await("the queued delivery at the new place", func() bool { return len(up.seen()) == 1 })
	r.await("no problem", func() bool { return r.one("SELECT config_error FROM weir.worker") == "" })
	r.order(`{"n": 2}`)
	r.await("a new delivery at the new place", func() bool { return len(up.seen()) == 2 })
	if n := w.metric(t, "weir_config_last_reload_successful"); n != 1 {
		t.Errorf("weir_config_last_reload_successful is %v", n)
	}
	if strings.Contains(w.log.String(), secret) {
		t.Errorf("the secret is in the log:\n%s", w.log)
	}
}

// A file that is changed while it is being loaded is loaded again, at the start as at a reload.
func TestReloadOfAFileThatChangesMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	path := r.write(hook(rc.URL+"/v0", ""))
	version := func(n int) {
		rewrite(t, path, strings.Replace(read(t, path), fmt.Sprint("/v", n-1), fmt.Sprint("/v", n), 1))
	}
	load := func(ctx context.Context) (*config.Config, error) {
		return config.Load(ctx, config.Options{Path: path, Lookup: os.LookupEnv})
	}
	cfg, err := load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	version(1)
	loads := 0
	run := r.work(cfg, worker.Options{Load: func(ctx context.Context) (*config.Config, error) {
		loads++
		cfg, err := load(ctx)
		if loads == 1 {
			version(2)
		}
		return cfg, err
	}})
	r.await("ready", func() bool { return run.get(t, "/readyz").code == http.StatusOK })
	r.await("both reloads", func() bool {
		return strings.Contains(run.get(t, "/metrics").body, `weir_config_reloads_total{result="success"} 2`)
	})
	r.order(`{}`)
	r.await("the delivery", func() bool { return len(rc.seen()) == 1 })
	if got := rc.seen()[0].path; got != "/v2" {
		t.Errorf("delivered to %s", got)
	}
}

// SIGHUP reloads at once. A ConfigMap is a link to a folder that is replaced as a whole.
func TestReloadOnSignalAndThroughLinks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	dir := t.TempDir()
	mount := func(name, text string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		rewrite(t, filepath.Join(dir, name, "weir.yaml"), text)
		if err := os.Symlink(name, filepath.Join(dir, "data.new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "data.new"), filepath.Join(dir, "data")); err != nil {
			t.Fatal(err)
		}
	}
	mount("1", read(t, r.write(hook(rc.URL+"/a", ""))))
	if err := os.Symlink("data/weir.yaml", filepath.Join(dir, "weir.yaml")); err != nil {
		t.Fatal(err)
	}
	w := r.spawn(t, filepath.Join(dir, "weir.yaml"))
	mount("2", read(t, r.write(hook(rc.URL+"/b", ""))))
	r.await("the reload", func() bool { return w.metric(t, "weir_config_reloads_total") == 1 })
	r.order(`{}`)
	r.await("the delivery", func() bool { return len(rc.seen()) == 1 })
	if got := rc.seen()[0].path; got != "/b" {
		t.Errorf("delivered to %s", got)
	}
	w.signal(t, syscall.SIGHUP) // nothing has changed
	r.await("the reload that was asked for", func() bool { return w.metric(t, "weir_config_reloads_total") == 2 })
}

// What a running worker cannot change waits for a restart, and is named; the rest is in force.
func TestReloadOfWhatNeedsARestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	path := r.write("endpoints: {log: {concurrency: 2}}\n" + hook(rc.URL, "") + "  l: {entity: Order, actions: [{type: log}]}\n")
	w := r.spawn(t, path)
	text := strings.Replace(read(t, path), "heartbeat: 1s", "heartbeat: 2s", 1)
	text = strings.Replace(text, "shutdown_timeout: 5s", "shutdown_timeout: 6s", 1)
	rewrite(t, path, strings.Replace(text, "concurrency: 2", "concurrency: 3", 1))
	r.await("the note", func() bool {
		return r.one("SELECT config_error FROM weir.worker") == "the new values of source, shutdown_timeout take effect after a restart"
	})
	r.await("the new concurrency", func() bool { return strings.Contains(w.log.String(), "queue=log concurrency=3") })
	r.order(`{}`)
	r.await("both deliveries", func() bool { return r.jobs("state = 'completed'") == "2" })
}

// An observer that is gone keeps its deliveries waiting; when it is back, they are delivered.
func TestReloadOfAnObserverThatGoesAndComesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	path := r.write(hook(rc.URL, "", "retry: {initial_delay: 100ms, backoff: fixed}"))
	w := r.spawn(t, path)
	good := read(t, path)
	r.order(`{}`)
	r.await("a failed attempt", func() bool { return len(rc.seen()) > 0 })
	observers := strings.Index(good, "observers:")
	rewrite(t, path, good[:observers]+"observers: {}\n")
	w.signal(t, syscall.SIGHUP)
	r.await("it waits", func() bool {
		return r.jobs("(metadata->>'snoozes')::int > 0 AND state IN ('scheduled', 'available')") == "1"
	})
	rc.behave(nil)
	rewrite(t, path, good)
	w.signal(t, syscall.SIGHUP)
	began := time.Now()
	r.await("the delivery", func() bool { return r.jobs("state = 'completed'") == "1" })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s: it waited although its observer was back", took)
	}
}

// Every key is swapped or known to need a restart: a new one has to be thought about.
func TestEveryKeyIsReloadedOrNeedsARestart(t *testing.T) {
	t.Parallel()
	swapped := []string{"observers", "endpoints", "outbound", "smtp", "history", "log"}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[config.Config]()) {
		key, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if key == "-" || key == "console" { // which no worker reads
			continue
		}
		if slices.Contains(swapped, key) == slices.Contains(worker.FixedKeys(), key) {
			t.Errorf("%s: swapped or fixed? See reload.go", key)
		}
	}
}

// A reload does not need the database. What it cannot do while that is away is done when it is back, and meanwhile nobody
// who asks how things are has to wait.
func TestReloadWhileTheDatabaseHangs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second := newReceiver(t, nil), newReceiver(t, nil)
	r.exec("ALTER DATABASE " + r.slot + " SET lock_timeout = '500ms'") // so that what hangs also fails
	path := r.write(hook(first.URL, ""))
	w := r.spawn(t, path)
	r.order(`{}`)
	r.await("a delivery", func() bool { return len(first.seen()) == 1 })
	tx, err := r.conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE weir.river_queue"); err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, strings.Replace(read(t, path), first.URL, second.URL, 1))
	r.await("the reload", func() bool { return w.metric(t, "weir_config_reloads_total") == 1 })
	if n := w.metric(t, "weir_config_last_reload_successful"); n != 1 {
		t.Error("the reload failed")
	}
	r.await("the failure", func() bool { return strings.Contains(w.log.String(), "add queue") })
	began := time.Now()
	w.get(t, "/readyz")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("/readyz took %s", took)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.order(`{}`)
	r.await("the delivery at the new place", func() bool { return len(second.seen()) == 1 })
	r.await("ready", func() bool { return w.get(t, "/readyz").code == http.StatusOK })
}
