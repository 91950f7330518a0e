package weir_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/fraiseql/weir/internal/config"
)

// What is shipped beside the programs is run by Docker, Kubernetes, systemd and goreleaser, none of which runs here. So the tests
// hold it against what they can know: the programs, the files, the configuration that it mounts.

// programs are what every kind of package holds.
var programs = []string{"riverui-proxy", "weir", "worker"}

func TestPackagesHoldEveryProgram(t *testing.T) {
	t.Parallel()
	mains, err := filepath.Glob("cmd/*")
	if err != nil || len(mains) == 0 {
		t.Fatalf("no programs: %v", err)
	}
	for _, dir := range mains {
		if !slices.Contains(programs, filepath.Base(dir)) {
			t.Errorf("%s is in no package", dir)
		}
	}
	var built []string
	release := documents(t, ".goreleaser.yaml")[0]
	for _, b := range list(release, "builds") {
		id := text(b, "id")
		if text(b, "main") != "./cmd/"+id || text(b, "binary") != id {
			t.Errorf("goreleaser: %s is built from %s as %s", id, text(b, "main"), text(b, "binary"))
		}
		if flags := fmt.Sprint(list(b, "ldflags")); !strings.Contains(flags, "main.version=") {
			t.Errorf("goreleaser: %s gets no version: %s", id, flags)
		}
		built = append(built, id)
	}
	for _, archive := range list(release, "archives") {
		packed := words(archive, "ids")
		slices.Sort(packed)
		slices.Sort(built)
		if !slices.Equal(built, programs) || !slices.Equal(packed, programs) {
			t.Errorf("goreleaser builds %v and packs %v, want %v", built, packed, programs)
		}
		for _, pattern := range words(archive, "files") {
			if found, err := filepath.Glob(strings.Replace(pattern, "/**", "", 1)); err != nil || len(found) == 0 {
				t.Errorf("goreleaser packs %s, which is nothing (%v)", pattern, err)
			}
		}
	}
}

func TestDockerfile(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	file := string(raw)
	for _, want := range []string{
		"for program in cmd/*;", "COPY --from=build /out/ /usr/local/bin/", "CGO_ENABLED=0", "\nFROM scratch\n", "\nUSER 65532:65532\n",
		`ENTRYPOINT ["/usr/local/bin/worker"]`, `CMD ["/usr/local/bin/worker", "-healthcheck"]`,
	} {
		if !strings.Contains(file, want) {
			t.Errorf("the Dockerfile has no %q", want)
		}
	}
	if match := regexp.MustCompile(`FROM .*golang:(\S+)`).FindStringSubmatch(file); len(match) < 2 || match[1] != goVersion(t) {
		t.Errorf("the Dockerfile builds with %v, go.mod says %s", match, goVersion(t))
	}
	ignored, err := os.ReadFile(".dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(ignored)) {
		if name := strings.Trim(line, "/\n"); slices.Contains([]string{"cmd", "internal", "db", "examples", "go.mod", "go.sum"}, name) {
			t.Errorf(".dockerignore leaves out %s, which the programs are built from", name)
		}
	}
}

// goVersion is the language's version of go.mod, without a patch release.
func goVersion(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(raw))[1]
}

func TestCompose(t *testing.T) {
	t.Parallel()
	compose := documents(t, "compose.yaml")[0]
	services := compose["services"].(map[string]any)
	for name, s := range services {
		service := s.(map[string]any)
		image := text(service, "image")
		if tag := image[strings.LastIndex(image, ":")+1:]; !strings.Contains(image, ":") || strings.Contains(tag, "/") || tag == "latest" {
			t.Errorf("%s: image %q has no tag", name, image)
		}
		for _, volume := range words(service, "volumes") {
			from, _, _ := strings.Cut(volume, ":")
			if !strings.HasPrefix(from, ".") {
				if volumes := compose["volumes"].(map[string]any); !hasKey(volumes, from) {
					t.Errorf("%s: volume %s is not declared", name, from)
				}
			} else if _, err := os.Stat(from); err != nil {
				t.Errorf("%s mounts %s: %v", name, from, err)
			}
		}
		for other := range object(service, "depends_on") {
			if !hasKey(services, other) {
				t.Errorf("%s depends on %s, which is none", name, other)
			}
		}
		for _, word := range words(service, "entrypoint") {
			if program, ok := strings.CutPrefix(word, "/usr/local/bin/"); !ok || !slices.Contains(programs, program) {
				t.Errorf("%s starts %s", name, word)
			}
		}
		runsWorker := len(words(service, "entrypoint")) == 0
		if off := text(service, "healthcheck", "disable") == "true"; strings.HasPrefix(image, "weir:") && off == runsWorker {
			t.Errorf("%s: whether it is asked for a worker's health: %v", name, !off)
		}
		for _, port := range words(service, "ports") {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s publishes %s to everybody, with the passwords of compose.yaml", name, port)
			}
		}
	}

	worker, console := services["worker"].(map[string]any), services["console"].(map[string]any)
	cfg := loadFor(t, "deploy/compose/weir.yaml", object(worker, "environment"))
	loadFor(t, "deploy/compose/weir.yaml", object(console, "environment"))
	fits(t, "worker", words(worker, "ports"), string(cfg.HTTP.Listen))
	fits(t, "console", words(console, "ports"), string(cfg.Console.Listen))
	if grace := duration(t, text(worker, "stop_grace_period")); grace <= cfg.ShutdownTimeout.Std() {
		t.Errorf("the worker is killed after %s, with a shutdown_timeout of %s", grace, cfg.ShutdownTimeout)
	}
	scraped(t, services)
	hosts := []string{strings.Split(cfg.Redis.String(), ":")[0]}
	for _, target := range cfg.Outbound.Allow {
		hosts = append(hosts, target.String())
	}
	for _, host := range hosts {
		if !hasKey(services, host) {
			t.Errorf("weir.yaml names %s, which is no service", host)
		}
	}
}

// scraped holds Prometheus' targets against the services' ports.
func scraped(t *testing.T, services map[string]any) {
	t.Helper()
	for _, job := range list(documents(t, "deploy/prometheus/prometheus.yaml")[0], "scrape_configs") {
		for _, target := range words(job, "static_configs", 0, "targets") {
			host, port, err := net.SplitHostPort(target)
			if ports := strings.Join(words(services[host], "ports"), " "); err != nil || !strings.HasSuffix(ports, ":"+port) {
				t.Errorf("Prometheus looks for %s, which publishes %q", target, ports)
			}
		}
	}
}

// fits holds the ports that are published against the address that is listened on.
func fits(t *testing.T, service string, published []string, listen string) {
	t.Helper()
	host, port, err := net.SplitHostPort(listen)
	if err != nil || host != "" {
		t.Errorf("%s listens on %q, which other containers cannot reach", service, listen)
	}
	if len(published) != 1 || !strings.HasSuffix(published[0], ":"+port) {
		t.Errorf("%s publishes %v and listens on %s", service, published, listen)
	}
}

// loadFor loads a weir.yaml in an environment, as the worker and as the console would.
func loadFor(t *testing.T, path string, environment map[string]any) *config.Config {
	t.Helper()
	cfg, err := config.Load(t.Context(), config.Options{Path: path, Console: true, Lookup: func(name string) (string, bool) {
		v, ok := environment[name]
		return fmt.Sprint(v), ok
	}})
	if err != nil {
		t.Fatalf("the configuration is refused:\n%v", err)
	}
	return cfg
}

func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	for program, unit := range map[string]string{"worker": "weir-worker.service", "riverui-proxy": "weir-console.service"} {
		raw, err := os.ReadFile("deploy/systemd/" + unit)
		if err != nil {
			t.Fatal(err)
		}
		file := string(raw)
		for _, want := range []string{
			"ExecStart=/usr/local/bin/" + program + " --config /etc/weir/weir.yaml", "Restart=always", "EnvironmentFile=/etc/weir/environment",
			"User=weir", "NoNewPrivileges=yes", "ProtectSystem=strict", "WantedBy=multi-user.target",
		} {
			if !strings.Contains(file, "\n"+want+"\n") {
				t.Errorf("%s has no %s", unit, want)
			}
		}
		if program == "worker" && !strings.Contains(file, "\nExecReload=/bin/kill -HUP $MAINPID\n") {
			t.Errorf("%s cannot be reloaded", unit)
		}
		stop := regexp.MustCompile(`(?m)^TimeoutStopSec=(\S+)$`).FindStringSubmatch(file)
		if len(stop) < 2 || duration(t, stop[1]) <= defaultShutdown(t) {
			t.Errorf("%s is killed after %v, with a shutdown_timeout of %s", unit, stop, defaultShutdown(t))
		}
		verifyUnit(t, unit, file)
	}
}

// verifyUnit asks systemd itself, where it is. It wants the program to be there, so another one stands in for it.
func verifyUnit(t *testing.T, unit, file string) {
	t.Helper()
	analyze, err := exec.LookPath("systemd-analyze")
	if errors.Is(err, exec.ErrNotFound) {
		t.Log("no systemd-analyze here")
		return
	}
	path := filepath.Join(t.TempDir(), unit)
	file = regexp.MustCompile(`/usr/local/bin/\S+`).ReplaceAllString(file, "/bin/sh")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify %s: %v\n%s", unit, err, out)
	}
}

// defaultShutdown is what holds where weir.yaml says nothing.
func defaultShutdown(t *testing.T) time.Duration {
	t.Helper()
	return loadFor(t, "internal/config/testdata/good/minimal.yaml", map[string]any{"DATABASE_URL": "postgres://localhost/app"}).ShutdownTimeout.Std()
}

// documents decodes a YAML file, in which no key may stand twice.
func documents(t *testing.T, path string) []map[string]any {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	var all []map[string]any
	for decoder := yaml.NewDecoder(file, yaml.Strict()); ; {
		one := map[string]any{}
		err := decoder.Decode(&one)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, one)
	}
	if len(all) == 0 {
		t.Fatalf("%s is empty", path)
	}
	return all
}

// at follows a path of keys, and of 0 for a list's first entry, through a document. nil: there is nothing.
func at(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if len(l) <= step {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

func text(v any, path ...any) string {
	if v = at(v, path...); v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

func list(v any, path ...any) []any {
	l, _ := at(v, path...).([]any)
	return l
}

func words(v any, path ...any) []string {
	var all []string
	for _, one := range list(v, path...) {
		all = append(all, fmt.Sprint(one))
	}
	return all
}

func object(v any, path ...any) map[string]any {
	m, _ := at(v, path...).(map[string]any)
	return m
}

func hasKey(m map[string]any, key string) bool {
	_, ok := m[key]
	return ok
}

func duration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
