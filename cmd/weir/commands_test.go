package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/db/migrations"
	"github.com/fraiseql/weir/internal/ops"
)

func TestMigrate(t *testing.T) {
	t.Parallel()
	url := postgres.EmptyDatabase(t)
	weir(t, "migrate", "status", "--database-url", url).exits(0).says("00001_weir.sql", "pending", "weir migrate up")
	weir(t, "migrate", "up", "--database-url", url).exits(0).says("applied 00001_weir.sql", "applied 00005_change_log.sql")
	weir(t, "migrate", "up", "--database-url", url).exits(0).says("nothing to do")
	weir(t, "migrate", "up", "--format", "json", "--database-url", url).exits(0).says(`"steps": []`)

	var list migrationList
	weir(t, "migrate", "status", "--format", "json", "--database-url", url).exits(0).json(&list)
	if !list.Current || list.Migrations[len(list.Migrations)-1].Version != migrations.Version {
		t.Errorf("status %+v", list)
	}
}

// TestPoolParameters: a URL that is meant for a worker's pool serves every command.
func TestPoolParameters(t *testing.T) {
	t.Parallel()
	url := postgres.EmptyDatabase(t)
	_, slot := slotFile(t, connectTo(t, url), "")
	pooled := url + map[bool]string{true: "&", false: "?"}[strings.Contains(url, "?")] + "pool_max_conns=7"
	path := file(t, "database: {url: '"+pooled+"'}\nsource: {slot: "+slot+"}\n")
	for _, args := range []string{"migrate up", "migrate status", "doctor", "status", "dlq list", "adopt --dry-run"} {
		weir(t, append(strings.Fields(args), "--config", path)...).exits(0)
	}
}

func TestMigrateDown(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	exec(t, db, `INSERT INTO core.tb_entity_change_log (object_type, modification_type) VALUES ('Order', 'CUSTOM')`)
	_, slot := slotFile(t, db, "")
	exec(t, db, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
	path, _ := slotFile(t, db, "")

	weir(t, "migrate", "down", "--database-url", url).exits(2).complains("not a terminal", "--yes")
	call{args: []string{"migrate", "down", "--database-url", url}, stdin: "\n"}.run(t).exits(1).complains("nothing was done")
	weir(t, "dlq", "list", "--database-url", url).exits(0)

	weir(t, "migrate", "down", "--yes", "--config", path, "--database-url", url).exits(0).
		says("reverted 00001_weir.sql").complains("pg_drop_replication_slot('" + slot + "')")
	weir(t, "dlq", "list", "--database-url", url).exits(1).complains("weir migrate up")
	var rows int
	check(t, db.QueryRow(t.Context(), `SELECT count(*) FROM core.tb_entity_change_log`).Scan(&rows))
	if rows != 1 {
		t.Errorf("%d rows in the change log, want 1: schema core is the application's", rows)
	}
	weir(t, "migrate", "down", "--yes", "--database-url", url).exits(0).says("no schema weir")
}

// TestMigrateTwoDatabases: the source gets the change log and nothing else.
func TestMigrateTwoDatabases(t *testing.T) {
	t.Parallel()
	url, sourceURL := postgres.EmptyDatabase(t), postgres.EmptyDatabase(t)
	_, slot := slotFile(t, connectTo(t, url), "")
	path := file(t, "database: {url: '"+url+"'}\nsource: {url: '"+sourceURL+"', slot: "+slot+"}\n")
	weir(t, "migrate", "up", "--config", path).exits(0).says("applied 00001", "change log in the source is complete")
	var log, schema bool
	check(t, connectTo(t, sourceURL).QueryRow(t.Context(), `
		SELECT to_regclass('core.tb_entity_change_log') IS NOT NULL, EXISTS (SELECT FROM pg_namespace WHERE nspname = 'weir')`).
		Scan(&log, &schema))
	if !log || schema {
		t.Errorf("change log %t, schema weir %t", log, schema)
	}
	weir(t, "status", "--config", path, "-v").exits(0).says("not started").complains("source: postgres://")
	weir(t, "doctor", "--config", path).exits(0)
}

// TestMigrateCompletesTheChangeLog: a table that has lost something since is mended as the doctor says, also in a database
// that is at the newest version.
func TestMigrateCompletesTheChangeLog(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, _ := slotFile(t, db, "")
	args := []string{"--config", path, "--database-url", url}
	up := append([]string{"migrate", "up"}, args...)
	doctor := append([]string{"doctor"}, args...)
	exec(t, db, `ALTER TABLE core.tb_entity_change_log DROP COLUMN id, DROP COLUMN trace_context`)
	weir(t, doctor...).exits(1).says("lacks id", "to mend it: weir migrate up\n")
	weir(t, up...).exits(0).says("added to the change log: id, trace_context\n")
	weir(t, doctor...).exits(0)
	exec(t, db, `DROP TABLE core.tb_entity_change_log`)
	weir(t, doctor...).exits(1).says("does not exist", "to mend it: weir migrate up\n")
	weir(t, append(up, "--format", "json")...).exits(0).says("created the change log core.tb_entity_change_log", `"source": false`)
	weir(t, doctor...).exits(0)
	weir(t, up...).exits(0).says("nothing to do", "the change log in the source is complete")

	exec(t, db, `DROP TABLE core.tb_entity_change_log`)
	other, _ := slotFile(t, db, "")
	check(t, os.WriteFile(other, []byte(`source: {change_log: app.log}`), 0o600))
	if said := weir(t, "migrate", "up", "--config", other, "--database-url", url).exits(0).stdout; strings.Contains(said, "change log") {
		t.Errorf("it speaks of a table that is not asked for: %s", said)
	}
}

// TestMigrateWithoutSource names the database that cannot be reached.
func TestMigrateWithoutSource(t *testing.T) {
	t.Parallel()
	url, _ := database(t)
	path := file(t, "database: {url: '"+url+"'}\nsource: {url: 'postgres://weir:hunter2@127.0.0.1:1/shop'}\n")
	weir(t, "migrate", "up", "--config", path).exits(4).complains("cannot connect to postgres://weir@127.0.0.1:1/shop", "and source.url of "+path)
}

func TestMigrateAfterTheSchemaWasDropped(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	exec(t, db, `DROP SCHEMA weir CASCADE`)
	weir(t, "migrate", "up", "--database-url", url).exits(1).complains("another application's", "dropped by hand", "DROP TABLE goose_db_version;")
	exec(t, db, `DROP TABLE goose_db_version`)
	weir(t, "migrate", "up", "--database-url", url).exits(0).says("applied 00001_weir.sql")
}

func TestStatus(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, slot := slotFile(t, db, "")
	weir(t, "status", "--config", path, "--database-url", url).exits(0).
		says("not started", "no worker is running", "no deliveries are waiting", "no dead letters")

	exec(t, db, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
	exec(t, db, `INSERT INTO weir.checkpoint (system_identifier, timeline, installation, slot, lsn, events, commit_time)
		VALUES ('1', 1, 'production', $1, pg_current_wal_lsn(), 42, now() - interval '90 seconds')`, slot)
	exec(t, db, `INSERT INTO weir.river_job (kind, queue, state, max_attempts, args) VALUES ('weir_log', 'log', 'available', 1, '{}')`)
	exec(t, db, `INSERT INTO weir.worker (client_id, hostname, pid, version, config_error)
		VALUES ('worker-1', 'db-host', 42, 'v1.2', 'weir.yaml:3:5: unknown key')`)
	deadLetter(t, db, "orders", "x")
	weir(t, "status", "--config", path, "--database-url", url).exits(0).
		says("stopped: nobody reads it", "42 events", "1 min 30 s ago", "production", "worker-1", "standby", "db-host", "v1.2",
			"worker-1 works with the configuration of", "weir.yaml:3:5: unknown key", "available", "orders")

	var s ops.Status
	weir(t, "status", "--config", path, "--database-url", url, "--format", "json").exits(0).json(&s)
	if s.Stream.State != ops.StreamStopped || s.Checkpoint.Events != 42 || len(s.Workers) != 1 || len(s.Queues) != 1 {
		t.Errorf("status %+v", s)
	}
	weir(t, "status", "--config", path, "--database-url", url, "--format", "yaml").exits(0).
		says("state: stopped\n", "  - client_id: worker-1\n", "installation: production\n")
}

func TestStatusOfAnUnmigratedDatabase(t *testing.T) {
	t.Parallel()
	weir(t, "status", "--database-url", postgres.EmptyDatabase(t)).exits(1).complains("has not been migrated: run weir migrate up")
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, _ := slotFile(t, db, "")
	weir(t, "doctor", "--config", path, "--database-url", url).exits(0).
		says("ok", "wal_level", "warning  max_slot_wal_keep_size", "ALTER SYSTEM SET max_slot_wal_keep_size", "1 warning: a worker works all the same")

	exec(t, db, `CREATE PUBLICATION weir`) // of nothing
	broken := weir(t, "doctor", "--config", path, "--database-url", url).exits(1).
		says("ERROR", "publication weir does not contain", "to mend it: ALTER PUBLICATION")
	if broken.stderr != "" {
		t.Errorf("stderr repeats what was said: %s", broken.stderr)
	}
	broken.says("to mend it: ALTER SYSTEM SET max_slot_wal_keep_size = '50GB';\n", "             SELECT pg_reload_conf(); -- with")
	var d ops.Diagnosis
	weir(t, "doctor", "--config", path, "--database-url", url, "--format", "json").exits(1).json(&d)
	if d.Healthy || len(d.Findings) < 10 {
		t.Errorf("diagnosis %+v", d)
	}
}

// TestDiagnosisOnOneLine: errors of a connection are of several lines, and a comment is told as it is.
func TestDiagnosisOnOneLine(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	(&app{flags: globalFlags{noColor: true}, environment: environment{lookup: os.LookupEnv}}).writeDiagnosis(&out, &ops.Diagnosis{Findings: []ops.Finding{{
		Check: "checkpoint", Level: ops.LevelError, Problem: "failed to connect:\n\tone\n\ttwo", Mend: "-- let it be",
	}}})
	const want = "ERROR  checkpoint  failed to connect: one two\n  to mend it: let it be\n"
	if !strings.HasPrefix(out.String(), want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestDebugEvent(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, _ := slotFile(t, db, `
observers:
  orders: {entity: Order, condition: "total > 100", actions: [{name: notify, type: log, message_template: x}]}
  large: {entity: Order, condition: "total > 1000", actions: [{type: log, message_template: x}]}
`)
	weir(t, "debug-event", "--last", "3", "--config", path, "--database-url", url).exits(0).says("no events have been ingested yet")
	e := shippedOrder(1)
	record(t, db, e, shippedOrder(2))
	id := deadLetter(t, db, "orders", "connection refused")

	whole := weir(t, "debug-event", e.ID.String(), "--config", path, "--database-url", url).exits(0).
		says("event "+e.ID.String(), `"big": 9007199254740993123`, "leads to notify", "condition false", "total > 1000",
			id, "orders/notify", "dead letter", "connection refused")
	if whole.stderr != "" {
		t.Errorf("stderr: %s", whole.stderr)
	}
	weir(t, "debug-event", e.ID.String(), "--database-url", url).exits(0).
		says("orders/notify").complains("no configuration file: the observers are not known")
	only := weir(t, "debug-event", e.ID.String(), "--observer", "large", "--config", path, "--database-url", url).exits(0).
		says("condition false", "no deliveries")
	if strings.Contains(only.stdout, "orders/notify") {
		t.Errorf("--observer shows others:\n%s", only.stdout)
	}
	weir(t, "debug-event", "--last", "1", "--observer", "nobody", "--config", path, "--database-url", url).exits(0).
		complains("there is no observer nobody")

	var reports eventReports
	weir(t, "debug-event", "--last", "5", "--format", "json", "--config", path, "--database-url", url).exits(0).json(&reports)
	if len(reports.Events) != 2 || reports.Events[0].ID != shippedOrder(2).ID || len(reports.Events[1].Deliveries) != 1 {
		t.Errorf("reports %+v", reports)
	}
	weir(t, "debug-event", "--last", "5", "--format", "yaml", "--database-url", url).exits(0).says("big: 9007199254740993123\n")
	weir(t, "debug-event", "0190a0c2-7f0e-7c3a-8a52-3f2d1f0c9b11", "--database-url", url).exits(1).complains("no such event", "weir status")
}

// TestDebugEventWithoutSecrets: what the environment lacks is said, and is no obstacle.
func TestDebugEventWithoutSecrets(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	record(t, db, shippedOrder(1))
	path := file(t, `
database: {url: "${DATABASE_URL}"}
observers:
  orders:
    entity: Order
    actions: [{type: webhook, url: "https://erp.example.org", signing_secret_env: ERP_SECRET}]
`)
	args := []string{"debug-event", "--last", "1", "--config", path}
	call{args: args, env: map[string]string{"DATABASE_URL": url}}.run(t).exits(0).
		says("leads to webhook").complains("the environment lacks")
	full := call{args: args, env: map[string]string{"DATABASE_URL": url, "ERP_SECRET": "hush"}}.run(t).exits(0)
	if full.stderr != "" {
		t.Errorf("stderr: %s", full.stderr)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := file(t, `
database: {url: "${DATABASE_URL}"}
observers:
  orders: {entity: Order, actions: [{type: webhook, url: "https://erp.example.org", signing_secret_env: ERP_SECRET}]}
`)
	env := map[string]string{"DATABASE_URL": "postgres://localhost/x", "ERP_SECRET": "hush"}
	call{args: []string{"validate-config", good}, env: env}.run(t).exits(0).says("valid, 1 observer, 1 action")
	call{args: []string{"validate-config", "--config", good, "--format", "json"}, env: env}.run(t).exits(0).
		says(`"valid": true`, `"errors": []`, `"warnings": []`)
	call{args: []string{"validate-config"}, env: map[string]string{"WEIR_CONFIG": good}}.run(t).exits(3).
		complains(good+":2:", "DATABASE_URL", good+":4:", "ERP_SECRET", "2 errors")
	weir(t, "validate-config", good, "--no-env").exits(0)
	weir(t, "validate-config", good, "--config", good).exits(2)
	weir(t, "validate-config", good, good).exits(2)
	weir(t, "validate-config", "/no/such/file.yaml").exits(3).complains("/no/such/file.yaml")

	bad := file(t, "database: {url: postgres://localhost/x}\nobservres: {}\n")
	weir(t, "validate-config", bad).exits(3).complains(bad+":2:1: ", "observres", "2 | observres: {}", "1 error\n")
	var v validation
	weir(t, "validate-config", bad, "--format", "json").exits(3).json(&v)
	if v.Valid || len(v.Errors) != 1 || v.Errors[0].Line != 2 || v.Errors[0].Column != 1 {
		t.Errorf("validation %+v", v)
	}
	weir(t, "status", "--config", bad).exits(3).complains(bad + ":2:1: ")
}

func TestVersion(t *testing.T) {
	t.Parallel()
	weir(t, "version").exits(0).says("weir dev, schema version")
	var v map[string]any
	weir(t, "version", "--format", "json").exits(0).json(&v)
	if v["version"] != "dev" || v["schema_version"] == nil || v["commit"] == nil {
		t.Errorf("version %v", v)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for shell, want := range map[string]string{
		"bash": "__start_weir", "zsh": "#compdef weir", "fish": "complete -c weir", "powershell": "Register-ArgumentCompleter",
	} {
		weir(t, "completion", shell).exits(0).says(want)
	}
	const noFiles, onlyFiles = ":4", ":8" // cobra's directives
	for args, want := range map[string]string{
		"dlq ":                            "retry-all\t",
		"status --format ":                "text\njson\nyaml\n" + noFiles,
		"status ":                         noFiles,
		"test order-":                     "order-large\norder-shipped\n" + noFiles,
		"test order-shipped ":             noFiles,
		"test order-shipped --event ":     "json\n" + onlyFiles,
		"dlq list --observer ":            "order-large\norder-shipped\n" + noFiles,
		"dlq list --action ":              "mail\nnote\nnotify\n" + noFiles,
		"search --entity ":                "Order\n" + noFiles,
		"search --outcome de":             "dead\n",
		"breaker open ":                   "erp.example.org\nlog\n" + noFiles,
		"breaker close erp":               "erp.example.org\n",
		"adopt --deliveries ":             "keep\ncancel\n" + noFiles,
		"replay --source ":                "events\nchange-log\n" + noFiles,
		"validate-config ":                "yaml\nyml\n" + onlyFiles,
		"status --config ":                "yaml\nyml\n" + onlyFiles,
		"--config /nowhere test ":         noFiles,
		"metrics --url ":                  noFiles,
		"history reindex --store ":        "postgres\nelasticsearch\n" + noFiles,
		"completion ":                     "zsh\t",
		"history forget --entity Order -": "--change-log\t",
	} {
		at := strings.LastIndex(args, " ")
		call{
			args: append(append([]string{"__complete"}, strings.Fields(args[:at])...), args[at+1:]),
			env:  map[string]string{"WEIR_CONFIG": "testdata/weir.yaml"},
		}.run(t).exits(0).says(want)
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, complaint string }{
		{"statsu", `unknown command "statsu": did you mean status?`},
		{"status --colour", "unknown flag: --colour"},
		{"status now", `takes no argument: "now" is one too many`},
		{"status --format xml", "expected text, json, yaml"},
		{"migrate", "needs one of its commands: up, down, status"},
		{"migrate sideways", `unknown command "sideways" for "weir migrate"`},
		{"dlq", "needs one of its commands: list, show, retry, retry-all, remove, stats"},
		{"debug-event", "name an event by its id, or say --last N"},
		{"debug-event 1", `"1" is no id of an event`},
		{"debug-event 0190a0c2-7f0e-7c3a-8a52-3f2d1f0c9b11 --last 1", "not both"},
		{"debug-event --last -1", "expected 1 to 1000"},
		{"status", "no database: name one with --database-url or DATABASE_URL"},
		{"status --database-url mysql://root:hunter2@localhost/x", "--database-url: this is no PostgreSQL URL"},
		{"status --database-url postgres://u:hunter2@localhost:port/x", "--database-url: this is no PostgreSQL URL"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			r := weir(t, strings.Fields(tt.args)...).exits(2).complains(tt.complaint, " --help.\n")
			if r.stdout != "" || strings.Contains(r.stderr, "hunter2") {
				t.Errorf("stdout %q, stderr %q", r.stdout, r.stderr)
			}
		})
	}
	weir(t).exits(0).says("Available Commands:")
}

// TestCannotConnect also tries to make the program show a password.
func TestCannotConnect(t *testing.T) {
	t.Parallel()
	server := postgres.Database(t)
	cfg, err := pgx.ParseConfig(server)
	check(t, err)
	nobody := "postgres://weir:hunter2@127.0.0.1:1/app"
	missing := strings.Replace(server, "/"+cfg.Database, "/no_such_database", 1)
	source := file(t, "database: {url: '"+server+"'}\nsource: {url: '"+nobody+"'}\n")
	for _, args := range [][]string{
		{"status", "--database-url", nobody},
		{"status", "--database-url", missing},
		{"status", "--config", source},
		{"doctor", "--config", source},
		{"migrate", "up", "--database-url", nobody},
		{"migrate", "status", "--database-url", nobody, "-v"},
		{"migrate", "down", "--yes", "--database-url", nobody},
		{"dlq", "list", "--database-url", nobody, "--format", "json"},
		{"debug-event", "--last", "1", "--database-url", nobody},
	} {
		r := weir(t, args...).exits(4).complains("cannot connect to postgres://", "check that the server runs")
		if strings.Contains(r.stdout+r.stderr, "hunter2") {
			t.Errorf("%v shows a password: %s", args, r.stderr)
		}
	}
	call{args: []string{"status"}, env: map[string]string{"DATABASE_URL": nobody}}.run(t).exits(4).complains("DATABASE_URL")
}

func TestColorsOnATerminalOnly(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, _ := slotFile(t, db, "")
	args := []string{"status", "--config", path, "--database-url", url}
	const escape = "\x1b["
	for name, tt := range map[string]struct {
		call call
		want bool
	}{
		"terminal":           {call{args: args, color: true}, true},
		"pipe":               {call{args: args}, false},
		"--no-color":         {call{args: append(args, "--no-color"), color: true}, false},
		"NO_COLOR":           {call{args: args, color: true, env: map[string]string{"NO_COLOR": "1"}}, false},
		"JSON on a terminal": {call{args: append(args, "--format", "json"), color: true}, false},
	} {
		if got := strings.Contains(tt.call.run(t).exits(0).stdout, escape); got != tt.want {
			t.Errorf("%s: colors %t, want %t", name, got, tt.want)
		}
	}
}

// A file with a mistake still says where the databases are: status tells how the workers do with the old configuration.
func TestStatusWithABadFile(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	var slot string
	check(t, db.QueryRow(t.Context(), `SELECT current_database()`).Scan(&slot))
	places := fmt.Sprintf("installation: here\ndatabase: {url: %q}\nsource: {slot: %s}\n", url, slot)
	bad := file(t, places+"observers:\n  o: {entty: Order, actions: [{type: log}]}\nbogus: 1\n")
	weir(t, "status", "--config", bad).exits(0).says("not started").complains(bad + " has mistakes (weir validate-config tells)")
	var s ops.Status
	weir(t, "status", "--config", bad, "--format", "json").exits(0).json(&s)
	if s.Stream.Slot != slot {
		t.Errorf("slot %s, want the file's, %s", s.Stream.Slot, slot)
	}
	weir(t, "dlq", "list", "--config", bad).exits(0)
	weir(t, "debug-event", "--last", "1", "--config", bad).exits(3).complains("did you mean entity?")
	broken := file(t, places+"observers: [\n")
	weir(t, "status", "--config", broken).exits(3)
	weir(t, "status", "--config", broken, "--database-url", url).exits(0).complains("cannot be read", "defaults are used")
	weir(t, "adopt", "--config", broken, "--database-url", url).exits(3)
	weir(t, "doctor", "--config", bad).exits(1).says("ERROR", "configuration", "has mistakes", "to mend it: weir validate-config "+bad)
	for _, command := range []string{"status", "doctor", "migrate up", "dlq list", "debug-event --last 1", "adopt"} {
		call{args: append(strings.Fields(command), "--database-url", url), env: map[string]string{"WEIR_CONFIG": "/no/such/weir.yaml"}}.
			run(t).exits(3).complains("/no/such/weir.yaml")
		weir(t, append(strings.Fields(command), "--database-url", url, "--config", "/no/such/weir.yaml")...).exits(3)
	}
	weir(t, "status", "--config", file(t, fmt.Sprintf("database: {url: %q}\nsource: {slt: x}\n", url))).exits(3).complains("did you mean slot?")
}

// What became of a delivery is told after its job is gone.
func TestDebugEventAfterTheMove(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	e := shippedOrder(1)
	record(t, db, e)
	exec(t, db, `INSERT INTO weir.outcome (day, delivery_id, event_id, event_pk, observer, action, action_type, endpoint, entity_type,
			entity_id, state, attempts, started_at, finished_at, payload)
		VALUES ($1, gen_random_uuid(), $2, $3, 'orders', 'notify', 'webhook', 'erp', 'Order', 'order-1', 'delivered', 2, now(), now(),
			'{"job_id": 7, "output": {"result": "delivered", "status": 202, "duration_ms": 12},
				"errors": [{"at": "2026-01-01T00:00:00Z", "attempt": 1, "error": "it was refused", "trace": ""}]}')`, e.Day(), e.ID, e.PK)
	shown := weir(t, "debug-event", e.ID.String(), "--database-url", url).exits(0).
		says("moved", "orders/notify", "completed", "  2  ", "delivered (202) in 12 ms")
	if strings.Contains(shown.stdout, "refused") {
		t.Errorf("what was delivered at last looks like a failure:\n%s", shown.stdout)
	}
	weir(t, "debug-event", "-v", e.ID.String(), "--database-url", url).exits(0).says("it was refused")
	exec(t, db, "DELETE FROM weir.event")
	gone := weir(t, "debug-event", e.ID.String(), "--database-url", url).exits(0).says("not stored", "orders/notify")
	if strings.Contains(gone.stdout, "0/0") {
		t.Errorf("a place that nobody knows is shown:\n%s", gone.stdout)
	}
}
