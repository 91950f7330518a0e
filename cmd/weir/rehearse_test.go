package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/observer"
)

const rehearsedObservers = `
database: {url: "${DATABASE_URL}"}
observers:
  order-shipped:
    entity: Order
    event_type: UPDATE
    condition: status == 'shipped' && total > 100
    actions:
      - type: webhook
        url: https://erp.example.org/orders/{{ entity_id }}
        signing_secret_env: ERP_SECRET
        headers: {Authorization: "Bearer {{ status }}"}
        body_template: '{"total": {{ total }}, "big": {{ big }}}'
      - {type: slack, webhook_url_env: SLACK_URL, message_template: "<{{ note }}> {{ total }}"}
      - {name: audit, type: log, message_template: "{{ status }}"}
  order-paid: {entity: Order, condition: "status == 'paid'", actions: [{type: log}]}
  broken: {entity: Order, actions: [{name: fine, type: log}, {type: log, message_template: "{{ totl }}"}]}
  failing: {entity: Order, condition: "totl > 1", actions: [{type: log}]}
`

func eventFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "event.json")
	check(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

const shippedEvent = `{"event_type": "UPDATE", "entity_type": "Order", "entity_id": "order-1",
	"data": {"status": "shipped", "total": 100.10, "big": 9007199254740993123, "note": "a & b\u001b[31m"}}`

// TestRehearse: no database, no secret, and nothing is sent: the targets do not exist.
func TestRehearse(t *testing.T) {
	t.Parallel()
	path, event := file(t, rehearsedObservers), eventFile(t, shippedEvent)
	weir(t, "test", "order-shipped", "--event", event, "--config", path).exits(0).
		says("order-shipped matches", "condition: status == 'shipped' && total > 100", "webhook (webhook) to erp.example.org",
			"method: POST", "url: https://erp.example.org/orders/order-1", "header Authorization: [redacted]", "header Webhook-Id: ",
			`"total": 100.10`, `"big": 9007199254740993123`,
			"url: [not known: $SLACK_URL is not set]", "text: <a &amp; bU+001B[31m> 100.10", "audit (log)", "message: shipped").
		complains("not set in the environment: SLACK_URL; what depends")

	env := map[string]string{"SLACK_URL": "https://hooks.slack.com/services/hunter2", "ERP_SECRET": "hunter2", "DATABASE_URL": "postgres://db/app"}
	known := call{args: []string{"test", "order-shipped", "--event", "-", "--config", path}, env: env, stdin: shippedEvent}.run(t).exits(0).
		says("url: https://hooks.slack.com/[redacted]", "header Webhook-Signature: [made when it is sent]")
	if known.stderr != "" || strings.Contains(known.stdout, "hunter2") {
		t.Errorf("stderr %q, stdout %s", known.stderr, known.stdout)
	}

	var r rehearsal
	weir(t, "test", "order-shipped", "--event", event, "--config", path, "--format", "json").exits(0).json(&r)
	if r.Verdict != observer.VerdictMatch || len(r.Actions) != 3 || r.Actions[0].Parts[0].Value != "POST" ||
		len(r.Unset) != 1 || r.Unset[0] != "SLACK_URL" || len(r.UnknownKeys) != 0 {
		t.Errorf("got %+v", r)
	}
	if body := r.Actions[0].Parts[len(r.Actions[0].Parts)-1].Value; body != `{"total": 100.10, "big": 9007199254740993123}` {
		t.Errorf("body %s", body)
	}
	weir(t, "test", "order-shipped", "--event", event, "--config", path, "--format", "yaml").exits(0).
		says("observer: order-shipped\n", "verdict: match\n", "unset:\n  - SLACK_URL\n")
}

// Of whatever type an action is, the keys by which it shares calls and results are shown.
func TestRehearseSharedCalls(t *testing.T) {
	t.Parallel()
	const observers = `
redis: {url: "redis://redis.example.org"}
observers:
  shared:
    entity: Order
    actions:
      - type: webhook
        url: https://erp.example.org/hooks
        dedup: {key: "order {{ entity_id }}", window: 5m}
        cache: {key: "at {{ total }}", ttl: 1h, tags: ["{{ status }}", "{{ null }}", orders]}
      - {name: audit, type: log, dedup: {key: "{{ note }}", window: 5m}}
      - {name: stale, type: cache, keys: ["order:{{ entity_id }}"], key_pattern: "order:{{ data.glob }}:*", tags: [a, "{{ status }}"]}
      - {name: again, type: cache, action: refresh, webhook: webhook}
  no-key:
    entity: Order
    actions:
      - {type: log, dedup: {key: "{{ null }}", window: 5m}}
      - {name: typo, type: webhook, url: https://erp.example.org, cache: {key: "{{ totl }}", ttl: 5m}}
      - {name: every-key, type: cache, key_pattern: "{{ null }}*"}
      - {name: incomplete, type: log, dedup: {key: a, window: "${UNSET_WINDOW}"}}
`
	path, event := file(t, observers), eventFile(t, strings.Replace(shippedEvent, `"status"`, `"glob": "*", "status"`, 1))
	weir(t, "test", "shared", "--event", event, "--config", path).exits(0).
		says("dedup key: order order-1", "cache key: at 100.10", "cache tags: shipped, orders", "dedup key: a & bU+001B[31m",
			"stale (cache) to redis", "action: invalidate", "keys: order:order-1", `pattern: order:\*:*`, "tags: a, shipped",
			"action: refresh", "webhook: shared/webhook")
	weir(t, "test", "no-key", "--event", event, "--config", path).exits(1).
		says("ERROR dedup: key: it renders to an empty text", "ERROR cache: key: {{ totl }}", `did you mean "total"?`,
			`ERROR key_pattern: it renders to "*", which would remove every key`, "lacks ${UNSET_WINDOW}")
}

func TestRehearseWithoutAMatch(t *testing.T) {
	t.Parallel()
	path, event := file(t, rehearsedObservers), eventFile(t, shippedEvent)
	weir(t, "test", "order-paid", "--event", event, "--config", path).exits(0).says("order-paid does not match", "status == 'paid' is false")
	insert := eventFile(t, strings.Replace(shippedEvent, "UPDATE", "INSERT", 1))
	weir(t, "test", "order-shipped", "--event", insert, "--config", path).exits(0).says("event_type is INSERT, not UPDATE")
}

func TestRehearseFails(t *testing.T) {
	t.Parallel()
	path, event := file(t, rehearsedObservers), eventFile(t, shippedEvent)
	failed := weir(t, "test", "broken", "--event", event, "--config", path).exits(1).
		says("broken matches", "fine (log)", "message: event", `ERROR message_template: {{ totl }}`, `did you mean "total"?`)
	if failed.stderr != "" {
		t.Errorf("stderr repeats what was said: %s", failed.stderr)
	}
	weir(t, "test", "failing", "--event", event, "--config", path).exits(1).says("fails: the event would be a dead letter", `no key "totl"`)
}

func TestRehearseWrongUse(t *testing.T) {
	t.Parallel()
	path, event := file(t, rehearsedObservers), eventFile(t, shippedEvent)
	with := func(args ...string) result { return weir(t, append([]string{"test", "--config", path}, args...)...) }
	with("order-shiped", "--event", event).exits(2).complains(`no observer "order-shiped": did you mean order-shipped?`)
	with("customers", "--event", event).exits(2).complains("expected one of broken, failing, order-paid, order-shipped")
	with("order-shipped").exits(2).complains("either --event or --event-id")
	with("order-shipped", "--event", event, "--event-id", "x").exits(2).complains("either --event or --event-id")
	with("order-shipped", "--event-id", "x").exits(2).complains(`"x" is no id of an event`)
	with("order-shipped", "--event", "/nowhere.json").exits(2).complains("/nowhere.json")
	with("order-shipped", "--event", eventFile(t, "{}")).exits(2).complains(`event_type is ""`)
	with("--event", event).exits(2)
	with("order-shipped", "--event", eventFile(t, strings.Replace(shippedEvent, "{", `{"total": 1, `, 1))).exits(0).
		complains(`no event has the key "total"`)
	weir(t, "test", "a", "--event", event, "--config", file(t, "observers: {a: {entity: x, actions: [{type: webhok}]}}")).exits(3).
		complains("webhok")
	weir(t, "__complete", "test", "--config", path, "").exits(0).says("broken\nfailing\norder-paid\norder-shipped\n")
}

func TestRehearseARecordedEvent(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	e := shippedOrder(1)
	record(t, db, e)
	path := file(t, rehearsedObservers)
	args := []string{"test", "order-shipped", "--config", path, "--database-url", url, "--event-id"}
	weir(t, append(args, e.ID.String())...).exits(1).says("matches", "orders/order-1", `"total": 100.10`, `no key "note"`)
	weir(t, append(args, "0190a0c2-7f0e-7c3a-8a52-3f2d1f0c9b11")...).exits(1).complains("no such event")
}

// The sender of a mail is in the section smtp, not in the action.
func TestRehearseAMail(t *testing.T) {
	t.Parallel()
	path := file(t, `smtp: {host: mail.example.org, from: "Shop <shop@example.org>", username_env: SMTP_USER, password_env: SMTP_PASSWORD}
observers:
  mail: {entity: Order, actions: [{type: email, to: a@example.org, subject: "{{ status }}", body_template: "{{ total }}"}]}
`)
	weir(t, "test", "mail", "--event", eventFile(t, shippedEvent), "--config", path).exits(0).
		says(`from: "Shop" <shop@example.org>`, "to: a@example.org", "subject: shipped", "text: 100.10")
}

// A variable that is not set may leave nothing of an action to read. That is no dead letter.
func TestRehearseWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	path := file(t, `smtp: {host: mail.example.org, from: "${SENDER}"}
observers:
  mail:
    entity: Order
    actions:
      - {type: email, name: known, to: a@example.org, subject: s, body_template: b}
      - {type: email, to: "${OPS_MAIL}", subject: s, body_template: b}
      - {type: webhook, url: "https://a.test", timeout: "${PATIENCE}"}
      - {type: log, message_template: "{{ status }}"}
`)
	weir(t, "test", "mail", "--event", eventFile(t, shippedEvent), "--config", path).exits(0).
		says("from: [not known: the environment lacks a value]", "email (email)", "not known: the environment lacks ${OPS_MAIL}", "webhook (webhook)", "lacks ${PATIENCE}", "message: shipped").
		complains("not set in the environment: OPS_MAIL, PATIENCE")
}
