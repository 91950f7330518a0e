package config

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/observer"
)

var update = flag.Bool("update", false, "write golden files and the JSON Schema anew")

// env is a Lookup over a fixed environment.
func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

func mustLoad(t *testing.T, text string, vars map[string]string) *Config {
	t.Helper()
	cfg, err := load(t.Context(), []byte(text), Options{Path: "weir.yaml", Lookup: env(vars)})
	if err != nil {
		t.Fatalf("load:\n%v", err)
	}
	return cfg
}

// loadErrors loads a text that must not pass.
func loadErrors(t *testing.T, text string, opts Options) Errors {
	t.Helper()
	opts.Path = "weir.yaml"
	_, err := load(t.Context(), []byte(text), opts)
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatalf("load: got %v, want Errors", err)
	}
	return errs
}

// A bad configuration is a file named after its mistake; the expected error is beside it.
func TestBadConfigurations(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			t.Parallel()
			forConsole := strings.HasPrefix(filepath.Base(path), "console-")
			_, err := Load(t.Context(), Options{
				Path: path, Lookup: env(map[string]string{"X": "x"}), Console: forConsole, Incomplete: forConsole,
			})
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("got %v, want Errors", err)
			}
			got := errs.Error() + "\n"
			if strings.Contains(got, "hunter2") {
				t.Errorf("the error tells a password:\n%s", got)
			}
			golden(t, strings.TrimSuffix(path, ".yaml")+".err", []byte(got))
		})
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run with -update to write it)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is stale (run with -update if the new one is right)\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

func TestGoodConfigurations(t *testing.T) {
	t.Parallel()
	vars := map[string]string{
		"DATABASE_URL": "postgres://weir:hunter2@db.example.org:5432/app", "ERP_SECRET": "s1", "ERP_SECRET_OLD": "s2",
		"SMTP_USER": "weir", "SMTP_PASSWORD": "hunter2", "REDIS_USER": "weir", "REDIS_PASSWORD": "hunter2",
		"ES_USER": "weir", "ES_PASSWORD": "hunter2", "CONSOLE_PASSWORD": "hunter2",
		"WEIRD": `a: b # "c"`, "SLACK_URL": "https://hooks.slack.com/services/T000/B000/XXXX",
		"TWILIO_ACCOUNT": "AC00", "TWILIO_TOKEN": "s3", "FCM_CREDENTIALS": serviceAccount(t),
	}
	files, err := filepath.Glob("testdata/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			cfg, err := Load(t.Context(), Options{Path: path, Lookup: env(vars)})
			if err != nil {
				t.Fatalf("load:\n%v", err)
			}
			if len(cfg.Warnings) > 0 {
				t.Errorf("warnings: %v", cfg.Warnings)
			}
			// Without an environment, all but what only it knows is checked.
			if _, err := Load(t.Context(), Options{Path: path, NoEnv: true}); err != nil {
				t.Errorf("load with --no-env:\n%v", err)
			}
		})
	}
}

// serviceAccount is the JSON key of one.
func serviceAccount(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "shop-1", "client_email": "weir@shop-1.iam.gserviceaccount.com",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Incomplete takes what the environment has and lists what it lacks; a mistake is one all the same.
func TestIncomplete(t *testing.T) {
	t.Parallel()
	text := `
database: {url: "${DATABASE_URL}"}
observers:
  o:
    entity: Order
    actions:
      - {type: webhook, url_env: SET, signing_secrets_env: [UNSET_SECRET, SET]}
      - {type: webhook, name: b, url: "${UNSET_URL}/x"}
      - {type: webhook, name: c, url: "https://${HOST}/x"}
`
	opts := Options{Path: "weir.yaml", Incomplete: true, Lookup: env(map[string]string{"SET": "https://set.test/x", "HOST": "host.test"})}
	cfg, err := load(t.Context(), []byte(text), opts)
	if err != nil {
		t.Fatal(err)
	}
	actions := cfg.Observers["o"].Actions
	got := fmt.Sprintln(cfg.Unset, actions[0].Endpoint(), actions[2].Endpoint())
	if got != "[DATABASE_URL UNSET_SECRET UNSET_URL] set.test host.test\n" {
		t.Errorf("got %s", got)
	}
	if errs := loadErrors(t, text+"      - {type: webhok}\n", opts); len(errs) != 1 {
		t.Errorf("got %v", errs)
	}
}

// What only the console's environment and files have is no reason for a worker to refuse the file that both read.
func TestConsoleElsewhere(t *testing.T) {
	t.Parallel()
	text := `
database: {url: postgres://localhost/app}
console:
  listen: :8080
  basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}
  tls: {cert: console.pem, key: console.key}
  trusted_header: {proxies: [10.1.0.7, "fd00::/8"]}
`
	vars := map[string]string{}
	c := mustLoad(t, text, vars).Console
	if c.BasicAuth.Password.Value() != "" || c.TrustedHeader.Name != "X-Forwarded-User" || fmt.Sprint(c.TrustedHeader.Proxies) != "[10.1.0.7/32 fd00::/8]" {
		t.Errorf("got %+v", c)
	}
	for _, opts := range []Options{{Incomplete: true, Console: true}, {Console: true}} {
		opts.Lookup = env(vars)
		if errs := loadErrors(t, text, opts); len(errs) != 2 || !strings.Contains(errs[0].Message, "CONSOLE_PASSWORD") || errs[1].Line != 6 {
			t.Errorf("%+v: got %v", opts, errs)
		}
	}
	vars["CONSOLE_PASSWORD"] = "hunter2"
	c = mustLoad(t, text, vars).Console
	if got := fmt.Sprintf("%v %+v %#v", c, *c.BasicAuth, c.BasicAuth); c.BasicAuth.Password.Value() != "hunter2" || strings.Contains(got, "hunter2") {
		t.Errorf("got %s", got)
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]bool{
		"127.0.0.1:80": true, "127.8.9.1:80": true, "[::1]:80": true, "localhost:80": true, "[::ffff:127.0.0.1]:80": true,
		":80": false, "0.0.0.0:80": false, "[::]:80": false, "10.0.0.1:80": false, "example.org:80": false, "localhost.example.org:80": false, "": false,
	} {
		if err := (Console{Listen: Listen(listen)}).CheckPublic(); (err == nil) != want {
			t.Errorf("%q: %v", listen, err)
		}
		if err := (Console{Listen: Listen(listen), BasicAuth: &BasicAuth{}}).CheckPublic(); err != nil {
			t.Errorf("%q with authentication: %v", listen, err)
		}
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, "observers: {o: {entity: Order, actions: [{type: log}]}}\nendpoints: {log: {}}",
		map[string]string{"DATABASE_URL": "postgres://db/app"})
	if cfg.Database.URL.Value() != "postgres://db/app" || cfg.Source.URL != cfg.Database.URL {
		t.Errorf("urls: %q, %q", cfg.Database.URL.Value(), cfg.Source.URL.Value())
	}
	got := fmt.Sprintln(cfg.Source.Slot, cfg.Source.Publication, cfg.Source.ChangeLog, cfg.Source.Heartbeat, cfg.HTTP.Listen,
		cfg.Console.Listen, cfg.Log, cfg.ShutdownTimeout, cfg.Endpoints["log"].Concurrency)
	want := fmt.Sprintln("weir", "weir", "core.tb_entity_change_log", "10s", "127.0.0.1:9464", "127.0.0.1:8080", Log{"info", "text"}, "30s", 50)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	o := cfg.Observers["o"]
	retry := observer.RetryPolicy{MaxAttempts: 22, InitialDelay: o.Retry.InitialDelay, MaxDelay: o.Retry.MaxDelay, Backoff: "exponential"}
	if !*o.Enabled || o.OnFailure != "dlq" || o.Retry != retry || !o.EventType.Has(event.Custom) ||
		o.Retry.InitialDelay.Std() != time.Second || o.Retry.MaxDelay.Std() != 12*time.Hour || o.Actions[0].Name() != "log" {
		t.Errorf("observer: %+v", o)
	}
}

func TestEmptyStringsAreNotDefaults(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, `{http: {listen: ""}, source: {change_log: ""}, database: {url: "postgres://db/app"}}`, nil)
	if cfg.HTTP.Listen != "" || cfg.Source.ChangeLog.String() != "" {
		t.Errorf("listen %q, change log %q: want none", cfg.HTTP.Listen, cfg.Source.ChangeLog)
	}
}

func TestSourceURL(t *testing.T) {
	t.Parallel()
	vars := map[string]string{"DATABASE_URL": "postgres://db/app", "SOURCE_URL": "postgres://source/app"}
	cfg := mustLoad(t, "source: {url: '${SOURCE_URL:-}'}", vars)
	if cfg.Source.URL.Value() != "postgres://source/app" {
		t.Errorf("source.url = %q", cfg.Source.URL.Value())
	}
	delete(vars, "SOURCE_URL")
	cfg = mustLoad(t, "source: {url: '${SOURCE_URL:-}'}", vars)
	if cfg.Source.URL.Value() != "postgres://db/app" {
		t.Errorf("source.url = %q, want database.url", cfg.Source.URL.Value())
	}
}

// A replaced value is typed as if it stood there, but it is one value, whatever it contains.
func TestVariables(t *testing.T) {
	t.Parallel()
	vars := map[string]string{
		"DATABASE_URL": "postgres://db/app", "N": "7", "TRUE": "true", "EMPTY": "", "NESTED": "${N}",
		"YAML": "x: 1 # \"'\n- {{ !", "QUOTED": `"7"`,
	}
	cfg := mustLoad(t, `
endpoints:
  log:
    concurrency: ${N}${EMPTY:-0}
observers:
  o:
    enabled: ${TRUE}
    entity: "pre-${NESTED}-$${N}-${UNSET:-de fault}"
    actions:
      - type: log
  p:
    entity: ${YAML}
    actions:
      - type: log
`, vars)
	if got := cfg.Observers["p"].Entity; got != vars["YAML"] {
		t.Errorf("entity = %q, want the value as it is", got)
	}
	if got := cfg.Endpoints["log"].Concurrency; got != 70 {
		t.Errorf("concurrency = %d, want 70", got)
	}
	if got, want := cfg.Observers["o"].Entity, "pre-${N}-${N}-de fault"; got != want {
		t.Errorf("entity = %q, want %q (one pass)", got, want)
	}
	errs := loadErrors(t, "endpoints:\n  log:\n    concurrency: '${N}'", Options{Lookup: env(vars)})
	if errs[0].Message != "expected a whole number" {
		t.Errorf("a quoted variable became a number: %v", errs)
	}
}

func TestErrorsComeTogetherAndInOrder(t *testing.T) {
	t.Parallel()
	errs := loadErrors(t, `observers:
  a: {entity: Order, event_type: NOPE, actions: [{type: log, bogus: 1}]}
  b: {entity: Order, retry: {backoff: no, max_attempts: -1}, actions: []}
log: {level: loud}
`, Options{Lookup: env(nil)})
	var lines []int
	for _, e := range errs {
		lines = append(lines, e.Line)
	}
	if got := fmt.Sprint(lines); got != "[1 2 2 3 3 3 4]" {
		t.Errorf("lines %s:\n%v", got, errs)
	}
}

func TestErrorJSON(t *testing.T) {
	t.Parallel()
	errs := loadErrors(t, "database: {url: postgres://localhost/app}\nlogs: {}\n", Options{})
	raw, err := json.Marshal(errs)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0]["file"] != "weir.yaml" || got[0]["line"] != 2.0 || got[0]["column"] != 1.0 ||
		got[0]["source"] != "logs: {}" || got[0]["message"] != `unknown key "logs"` {
		t.Errorf("got %s", raw)
	}
}

// --no-env checks all but what only the environment knows, and only that.
func TestNoEnv(t *testing.T) {
	t.Parallel()
	const good = `
database: {url: "${DATABASE_URL}"}
endpoints:
  log:
    concurrency: ${N}
outbound: {allow: ["${NETWORK}"]}
observers:
  o:
    enabled: ${ENABLED}
    entity: Order
    retry: {max_delay: "${DELAY}"}
    condition: total > ${LIMIT} && x
    actions:
      - type: webhook
        url: https://${HOST}/hooks
        signing_secret_env: SECRET
`
	cfg, err := load(t.Context(), []byte(good), Options{Path: "weir.yaml", NoEnv: true})
	if err != nil {
		t.Fatalf("load:\n%v", err)
	}
	if !cfg.Database.URL.IsZero() || len(cfg.Warnings) > 0 {
		t.Errorf("url %q, warnings %v", cfg.Database.URL.Value(), cfg.Warnings)
	}
	errs := loadErrors(t, good+"        bogus: 1\nlog: {level: '${LEVEL}', format: xml}\n", Options{NoEnv: true})
	if len(errs) != 2 || errs[0].Line != 17 || errs[1].Column != 34 {
		t.Errorf("got\n%v\nwant errors about bogus and xml", errs)
	}
}

func TestSecretsStayOut(t *testing.T) {
	t.Parallel()
	const password = "hunter2"
	vars := map[string]string{
		"DATABASE_URL": "postgres://weir:" + password + "@db.example.org:5432/app?password=" + password,
		"SECRET":       "whsec_" + password,
	}
	cfg := mustLoad(t, `
source: {url: "host=db user=weir password=`+password+`"}
outbound: {proxy: "http://u:`+password+`@proxy:3128"}
observers:
  o:
    entity: Order
    actions:
      - {type: webhook, url: https://example.org/, signing_secret_env: SECRET}
      - {type: webhook, name: literal, url: https://example.org/, signing_secret: `+password+`}
`, vars)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("config", "config", cfg, "url", cfg.Database.URL)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("config", "config", cfg, "url", cfg.Database.URL)
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprintf("%v %+v %#v", cfg, *cfg, cfg), fmt.Sprintf("%d %x %q", cfg.Database.URL, cfg.Database.URL, cfg.Database.URL), log.String(), string(asJSON),
		fmt.Sprint(cfg.Warnings), cfg.Source.URL.String(),
	} {
		if strings.Contains(text, password) {
			t.Errorf("a password got out: %s", text)
		}
	}
	if got := cfg.Database.URL.String(); got != "postgres://weir@db.example.org:5432/app" {
		t.Errorf("URL prints as %q", got)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, `database: {url: postgres://localhost/app}
endpoints:
  erp.example.org: {concurrency: 5}
  epr.example.org: {concurrency: 5}
observers:
  o:
    entity: Order
    actions:
      - type: webhook
        url: https://erp.example.org/hooks
        signing_secret: in-the-file
`, nil)
	if len(cfg.Warnings) != 2 || cfg.Warnings[0].Line != 4 || cfg.Warnings[1].Line != 11 {
		t.Fatalf("got %v, want one about epr in line 4 and one about the secret in line 11", cfg.Warnings)
	}
	if !strings.Contains(cfg.Warnings[0].String(), `weir.yaml:4:3: no action goes to the endpoint "epr.example.org"`) {
		t.Errorf("got %s", cfg.Warnings[0])
	}
}

// A key that every event shares, or that none shares, is most likely a mistake. What the environment says is not known without it.
func TestWarningsAboutKeys(t *testing.T) {
	t.Parallel()
	const text = `database: {url: postgres://localhost/app}
redis: {url: redis://localhost}
observers:
  o:
    entity: Order
    actions:
      - type: webhook
        url: https://erp.example.org/hooks
        dedup:
          window: 5m
          key: "${KEY}"
        cache: {key: "{{ lower(id) }}", ttl: 5m}
      - {name: fine, type: log, dedup: {key: "{{ data.id }}", window: 5m}}
`
	cfg := mustLoad(t, text, map[string]string{"KEY": "all"})
	if len(cfg.Warnings) != 2 {
		t.Fatalf("got %v", cfg.Warnings)
	}
	for i, want := range []string{"weir.yaml:11:11: dedup.key has no placeholder", "weir.yaml:12:17: cache.key holds id, which no other"} {
		if got := cfg.Warnings[i].String(); !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	cfg, err := load(t.Context(), []byte(text), Options{Path: "weir.yaml", NoEnv: true})
	if err != nil || len(cfg.Warnings) != 1 {
		t.Errorf("without the environment: %v, %v", cfg, err)
	}
}

func TestHostileAliases(t *testing.T) {
	t.Parallel()
	text := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 12; i++ {
		text += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	errs := loadErrors(t, text, Options{})
	if !strings.Contains(errs[0].Message, "too large") {
		t.Errorf("got %v", errs[0])
	}
	errs = loadErrors(t, strings.Repeat("[", 200)+strings.Repeat("]", 200), Options{})
	if !strings.Contains(errs[0].Message, "too deeply") {
		t.Errorf("got %v", errs[0])
	}
}

func TestWindowsLineEndings(t *testing.T) {
	t.Parallel()
	errs := loadErrors(t, "database:\r\n  url: postgres://localhost/app\r\nlog:\r\n  levl: info\r\n", Options{})
	if len(errs) != 1 || errs[0].Line != 4 || errs[0].Column != 3 || errs[0].Source != "  levl: info" {
		t.Errorf("got %v", errs)
	}
}

func TestByteOrderMark(t *testing.T) {
	t.Parallel()
	errs := loadErrors(t, "\ufefflogs: {}\n", Options{Lookup: env(map[string]string{"DATABASE_URL": "postgres://db/app"})})
	if len(errs) != 1 || errs[0].Message != `unknown key "logs"` || errs[0].Column != 1 {
		t.Errorf("got %v", errs)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	none := env(nil)
	if path, err := Find("given.yaml", env(map[string]string{"WEIR_CONFIG": "env.yaml"})); path != "given.yaml" || err != nil {
		t.Errorf("explicit: %q, %v", path, err)
	}
	if path, err := Find("", env(map[string]string{"WEIR_CONFIG": "env.yaml"})); path != "env.yaml" || err != nil {
		t.Errorf("environment: %q, %v", path, err)
	}
	if _, err := os.Stat("/etc/weir/weir.yaml"); errors.Is(err, os.ErrNotExist) {
		if path, err := Find("", none); !errors.Is(err, ErrNotFound) {
			t.Errorf("none: %q, %v", path, err)
		}
	}
	if err := os.WriteFile("weir.yaml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if path, err := Find("", none); path != "./weir.yaml" || err != nil {
		t.Errorf("here: %q, %v", path, err)
	}
}

func TestLoadUnreadable(t *testing.T) {
	t.Parallel()
	_, err := Load(context.Background(), Options{Path: filepath.Join(t.TempDir(), "none.yaml")})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestLogger(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := Log{Level: "warn", Format: "json"}.Logger(&out, nil)
	log.Info("quiet")
	log.Warn("loud")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "loud" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// Whatever the file holds, Load does not panic, and an error has a place in it.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/good/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range files {
			raw, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw, false)
			f.Add(raw, true)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, noEnv bool) {
		lookup := env(map[string]string{"DATABASE_URL": "postgres://db/app", "X": "1"})
		cfg, err := load(t.Context(), raw, Options{Path: "/nowhere/weir.yaml", Lookup: lookup, NoEnv: noEnv})
		if err == nil {
			_ = fmt.Sprintf("%+v", cfg)
			return
		}
		var errs Errors
		if !errors.As(err, &errs) || len(errs) == 0 {
			t.Fatalf("got %T %v, want Errors", err, err)
		}
		lines := strings.Split(strings.ReplaceAll(string(raw), "\r\n", "\n"), "\n")
		for _, e := range errs {
			if e.Line < 1 || e.Line > len(lines) || e.Column < 1 || e.Column > len([]rune(lines[e.Line-1]))+1 || e.Message == "" {
				t.Errorf("no place in the file: %+v", e)
			}
		}
	})
}

// No part of a literal secret is shown, however it is written and wherever the error is: a log is read by others than the file.
func TestSecretsInTheFileAreNotShown(t *testing.T) {
	t.Parallel()
	const frame = "database: {url: postgres://localhost/app}\nobservers:\n  o:\n    entity: Order\n    actions:\n"
	for name, actions := range map[string]string{
		"quoted":            `      - {signing_secret: "ab,cdSECRET}x", type: webhook, ulr: x}`,
		"quoted key":        `      - {"signing_secret": 'ab''cd,SECRET', type: webhook, ulr: x}`,
		"escaped quote":     `      - {signing_secret: "ab\", cdSECRET", ulr: x}`,
		"plain":             `      - {type: webhook, ulr: x, signing_secret: abcdSECRET}`,
		"plain, then a key": `      - {type: webhook, signing_secret: abcdSECRET, ulr: x}`,
		"cut by a comma":    `      - {type: webhook, signing_secret: ab,cdSECRET, url: "https://example.org"}`,
		"plain with comma":  "      - type: webhook\n        signing_secret: [ab, cdSECRET, \"x\"]",
		"on its own line":   "      - type: webhook\n        signing_secret: ab, cdSECRET # why: not",
		"block":             "      - type: webhook\n        signing_secret: |\n          ab\n          cdSECRET: ${}\n        url: x",
		"folded, bad":       "      - signing_secret: >\n          cdSECRET ${\n        type: webhook",
		"next line":         "      - type: webhook\n        signing_secret:\n          cdSECRET: x",
		"unclosed":          "      - type: webhook\n        signing_secret: \"ab,cdSECRET\n          moreSECRET",
		"continued":         "      - type: webhook\n        signing_secret: ab\n          cdSECRET ${\n        url: x",
		"not YAML":          "      - {type: webhook, signing_secret: ab: cdSECRET, [",
		"in braces below":   "      - {type: webhook,\n         signing_secret: ab cdSECRET, ulr: x}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			errs := loadErrors(t, frame+actions+"\n", Options{})
			text := errs.Error()
			for _, e := range errs {
				text += "\n" + e.Brief()
			}
			if strings.Contains(text, "SECRET") {
				t.Error(text)
			}
		})
	}
	errs := loadErrors(t, frame+`      - {type: webhook, signing_secret: abcdSECRET, ulr: x}`, Options{})
	if !strings.Contains(errs[0].Error(), "signing_secret: **********, ulr: x}") {
		t.Errorf("masked too much:\n%v", errs)
	}
}
