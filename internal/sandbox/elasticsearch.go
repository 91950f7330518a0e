package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// ElasticsearchVersion is the one that is downloaded.
	ElasticsearchVersion = "8.19.16"
	// ElasticsearchURLVariable is the environment variable that names the server which Suite uses instead of starting one.
	ElasticsearchURLVariable = "ELASTICSEARCH_URL"
	// ElasticsearchUser is the superuser of a server with a password.
	ElasticsearchUser = "elastic"

	// elasticsearchStart bounds how long the server may take to answer: 11 s on an idle machine with two cores.
	elasticsearchStart = 3 * time.Minute
	elasticsearchPoll  = 100 * time.Millisecond
)

// ElasticsearchOptions describe a private server. The zero value is fine for tests.
type ElasticsearchOptions struct {
	// Settings are those of elasticsearch.yml; they win over the defaults.
	Settings map[string]string
	// Password is the one of the user elastic, which every request then needs. Empty: security is off.
	Password string
}

// Elasticsearch is a private server on 127.0.0.1. Not for concurrent use, but its URL is.
type Elasticsearch struct {
	options       ElasticsearchOptions
	home, java    string
	dir           string
	as            account
	alive         *os.File // held open: its lock tells others that the folder is in use
	dog           *watchdog
	port          int
	process       *Process
	stopped       bool
	probe         *http.Client
	settingsFiles string // the folder with elasticsearch.yml
}

// StartElasticsearch starts the real server on a free port and returns when it accepts requests. The first start downloads it.
// It has what searching and indexing need, without GET /, data streams, ILM, scripts, _delete_by_query and _reindex. Stop ends
// it, and the end of this process.
func StartElasticsearch(ctx context.Context, options ...ElasticsearchOptions) (*Elasticsearch, error) {
	e := &Elasticsearch{probe: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	if len(options) > 0 {
		e.options = options[0]
	}
	if err := e.prepare(ctx); err != nil {
		return nil, fmt.Errorf("start Elasticsearch: %w", err)
	}
	err := e.configure(ctx)
	if err == nil {
		err = onFreePort(func(port int) error {
			e.port = port
			return e.Start(ctx)
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start Elasticsearch: %w", err), e.Stop())
	}
	return e, nil
}

// prepare finds the programs and makes the server's folder and its watchdog.
func (e *Elasticsearch) prepare(ctx context.Context) (err error) {
	if e.java, err = javaHome(ctx); err != nil {
		return err
	}
	if e.as, err = serverAccount(); err != nil {
		return err
	}
	c, err := openCache(e.as)
	if err != nil {
		return err
	}
	lock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	if e.home, err = c.elasticsearchHome(ctx); err != nil {
		return err
	}
	if e.dir, e.alive, err = c.runFolder("elasticsearch"); err != nil {
		return err
	}
	if e.dog, err = startWatchdog(e.as, "KILL", e.dir); err != nil {
		return errors.Join(err, e.alive.Close(), os.RemoveAll(e.dir))
	}
	return nil
}

// jvmOptions are for a server that starts quickly and keeps little. Those of the distribution would write into its folder, which
// is not the server's.
const jvmOptions = `-Xms256m
-Xmx512m
-XX:+UseSerialGC
-XX:TieredStopAtLevel=1
-Djava.io.tmpdir=${ES_TMPDIR}
`

// configure fills the folder with the settings.
func (e *Elasticsearch) configure(ctx context.Context) error {
	e.settingsFiles = filepath.Join(e.dir, "config")
	for _, dir := range []string{e.settingsFiles, e.file("tmp"), e.file("data"), e.file("logs")} {
		if err := errors.Join(os.Mkdir(dir, 0o755), e.as.own(dir)); err != nil {
			return err
		}
	}
	logging, err := os.ReadFile(filepath.Join(e.home, "config", "log4j2.properties"))
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"jvm.options": jvmOptions, "log4j2.properties": string(logging)} {
		if err := e.write(name, text); err != nil {
			return err
		}
	}
	if e.options.Password == "" {
		return nil
	}
	return e.setPassword(ctx)
}

// write writes a file of the settings that the server may read, whatever the umask says.
func (e *Elasticsearch) write(name, text string) error {
	path := filepath.Join(e.settingsFiles, name)
	return errors.Join(os.WriteFile(path, []byte(text), 0o600), e.as.own(path))
}

// setPassword puts the password where the server looks for it at its first start.
func (e *Elasticsearch) setPassword(ctx context.Context) error {
	for _, args := range [][]string{{"create"}, {"add", "--stdin", "bootstrap.password"}} {
		cmd := e.command("elasticsearch-keystore", args...)
		cmd.Stdin = strings.NewReader(e.options.Password)
		if out, err := combinedOutput(ctx, cmd); err != nil {
			return fmt.Errorf("elasticsearch-keystore %s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

// yaml is elasticsearch.yml.
func (e *Elasticsearch) yaml() string {
	all := map[string]string{
		"cluster.name": filepath.Base(e.dir), "discovery.type": "single-node",
		"network.host": "127.0.0.1", "http.port": strconv.Itoa(e.port),
		"path.data": e.file("data"), "path.logs": e.file("logs"),
		"node.store.allow_mmap": "false", "cluster.routing.allocation.disk.threshold_enabled": "false",
		"xpack.security.enabled": strconv.FormatBool(e.options.Password != ""),
	}
	if e.options.Password != "" {
		all["xpack.security.http.ssl.enabled"] = "false"
		all["xpack.security.transport.ssl.enabled"] = "false"
	}
	maps.Copy(all, e.options.Settings)
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&lines, "%s: %q\n", name, all[name])
	}
	return lines.String()
}

// command prepares a program of the distribution: as the server's account, with the settings of the folder.
func (e *Elasticsearch) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(e.home, "bin", name), args...)
	cmd.Dir = e.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + e.dir, "LC_ALL=C", "TZ=UTC",
		"ES_JAVA_HOME=" + e.java, "ES_PATH_CONF=" + e.settingsFiles, "ES_TMPDIR=" + e.file("tmp"),
	}
	cmd.SysProcAttr = e.as.attributes()
	return cmd
}

// URL is how to connect. It holds no password.
func (e *Elasticsearch) URL() string {
	return "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(e.port))
}

// Dir is the server's folder, which Stop removes.
func (e *Elasticsearch) Dir() string { return e.dir }

// Process is the server's, to be stopped and continued by signals.
func (e *Elasticsearch) Process() *Process { return e.process }

// Start starts the server again after a Kill, on the same port and with what it had acknowledged.
func (e *Elasticsearch) Start(ctx context.Context) error {
	if err := e.write("elasticsearch.yml", e.yaml()); err != nil {
		return err
	}
	log, err := os.Create(e.file("server.log"))
	if err != nil {
		return err
	}
	cmd := e.command("elasticsearch")
	// Not the file itself: the process has ended, then, only when nobody writes there any more.
	out := struct{ io.Writer }{log}
	cmd.Stdout, cmd.Stderr = out, out
	// The program starts the server as a child of its own: what is meant for the server goes to both.
	if e.process, err = startWatched(cmd, e.dog, true, log.Close); err != nil {
		return err
	}
	if err := e.awaitReady(ctx); err != nil {
		err = errors.Join(err, e.Kill())
		text := tail(log.Name(), 0)
		if strings.Contains(text, "BindHttpException") || strings.Contains(text, "Address already in use") {
			return errPortTaken
		}
		return fmt.Errorf("%w; its log:\n%s", err, text)
	}
	return nil
}

func (e *Elasticsearch) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, elasticsearchStart,
		fmt.Errorf("it does not accept requests after %s", elasticsearchStart))
	defer cancel()
	for {
		err := e.health(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-e.process.Exited():
			return errors.New("it ended")
		default:
		}
		if stop := pause(ctx, elasticsearchPoll); stop != nil {
			return errors.Join(stop, err)
		}
	}
}

// health asks whether this very server, not another one that took the port, is there for reading and writing.
func (e *Elasticsearch) health(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL()+"/_cluster/health", http.NoBody)
	if err != nil {
		return err
	}
	if e.options.Password != "" {
		request.SetBasicAuth(ElasticsearchUser, e.options.Password)
	}
	response, err := e.probe.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var found struct {
		Cluster string `json:"cluster_name"`
		Status  string `json:"status"`
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		return err
	}
	wanted := cmp.Or(e.options.Settings["cluster.name"], filepath.Base(e.dir))
	if found.Cluster != wanted || found.Status == "red" {
		return fmt.Errorf("the cluster %s is %s", found.Cluster, found.Status)
	}
	return nil
}

// Kill ends the server with SIGKILL, as a crash would. Start starts it again.
func (e *Elasticsearch) Kill() error { return e.process.Kill() }

// Stop kills the server and removes its folder. More calls do nothing.
func (e *Elasticsearch) Stop() error {
	if e.stopped {
		return nil
	}
	e.stopped = true
	var err error
	if e.process != nil {
		err = e.Kill()
	}
	return errors.Join(err, e.dog.close(), e.alive.Close(), os.RemoveAll(e.dir))
}

func (e *Elasticsearch) file(name string) string { return filepath.Join(e.dir, name) }

// TestElasticsearch is StartElasticsearch for a test: stopped when it ends. A failure ends the test.
func TestElasticsearch(t TB, options ...ElasticsearchOptions) *Elasticsearch {
	t.Helper()
	e, err := StartElasticsearch(context.WithoutCancel(t.Context()), options...)
	if err != nil {
		t.Fatalf("sandbox: %v", err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Errorf("sandbox: %v", err)
		}
	})
	return e
}
