package worker_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// hook is a configuration with one observer of Order that posts to url; more are further lines of the observer.
func hook(url, action string, more ...string) string {
	return fmt.Sprintf(`
outbound: {allow: ["127.0.0.0/8"]}
observers:
  hook:
    entity: Order
    %s
    actions:
      - {type: webhook, url: %q%s}
`, strings.Join(more, "\n    "), url, action)
}

func TestOneCommitOneSignedWebhook(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	run := r.started(hook(rc.URL, ", signing_secret_env: SECRET"), "SECRET="+secret)
	r.order(`{"n": 9007199254740993123, "total": 100.10, "html": "<a & b>"}`)
	r.await("the webhook", func() bool { return len(rc.seen()) == 1 })
	got := rc.seen()[0]
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Verify([]byte(got.body), got.header); err != nil {
		t.Errorf("signature: %v", err)
	}
	if data := field(t, got.body, "data"); data != `{"n":9007199254740993123,"html":"<a & b>","total":100.10}` &&
		data != `{"n": 9007199254740993123, "html": "<a & b>", "total": 100.10}` {
		t.Errorf("data %s", data)
	}
	r.await("completed", func() bool { return r.jobs("state = 'completed'") == "1" })
	args := r.one("SELECT (SELECT string_agg(k, ' ' ORDER BY k) FROM jsonb_object_keys(args) k) FROM job")
	if args != "action day entity entity_id event_id event_type lsn observer pk tx_index" {
		t.Errorf("job arguments: %s", args)
	}
	metrics := run.get(t, "/metrics").body
	for _, want := range []string{
		`weir_deliveries_total{action_type="webhook",observer="hook",outcome="delivered"} 1`,
		`weir_capture_changes_total{result="event"} 1`, `weir_matches_total{observer="hook"} 1`, `weir_stream_owned 1`,
		`weir_commit_to_delivery_seconds_count{action_type="webhook"} 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	for _, text := range []string{metrics, r.one("SELECT string_agg(j::text, '') FROM job j")} {
		if strings.Contains(text, secret[6:]) {
			t.Error("the secret leaked")
		}
	}
}

// A receiver that is down for a while under load: by default every delivery gets there by itself.
func TestChaosReceiverDown(t *testing.T) {
	t.Parallel()
	outage := 4 * time.Second
	if full() {
		outage = time.Minute
	}
	r := newRig(t)
	var back atomic.Bool
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if !back.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	r.started(hook(rc.URL, ""))
	for i := range 200 {
		r.order(fmt.Sprintf(`{"n": %d}`, i))
	}
	time.Sleep(outage)
	back.Store(true)
	r.awaitFor(4*time.Minute, "all delivered", func() bool { return r.jobs("state = 'completed'") == "200" })
	if dead := r.jobs(deadLetter); dead != "0" {
		t.Errorf("%s dead letters", dead)
	}
}

func TestFewAttemptsThenDeadLetters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var down atomic.Bool
	down.Store(true)
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	run := r.started(rc.unbroken(t) + hook(rc.URL, "", "retry: {max_attempts: 3, initial_delay: 100ms, backoff: fixed}"))
	for i := range 20 {
		r.order(fmt.Sprintf(`{"n": %d}`, i))
	}
	r.await("dead letters", func() bool { return r.jobs("state = 'discarded'") == "20" })
	if n := len(rc.seen()); n != 60 {
		t.Errorf("%d calls for 20 deliveries of 3 attempts", n)
	}
	if r.jobs("metadata #>> '{output,result}' = 'dead' AND jsonb_array_length(to_jsonb(errors)) = 3") != "20" {
		t.Error("a dead letter without its errors or its outcome")
	}
	r.await("the metric", func() bool {
		return strings.Contains(run.get(t, "/metrics").body, `weir_dead_letters{observer="hook"} 20`)
	})
}

func TestFinalStatusIsADeadLetterAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) })
	for _, on := range []string{"dlq", "alert", "log"} {
		run := r.started(hook(rc.URL, "", "on_failure: "+on))
		before := len(rc.seen())
		r.order(`{}`)
		r.await("the end", func() bool { return r.jobs("state = 'cancelled'") != "0" })
		if calls := len(rc.seen()) - before; calls != 1 {
			t.Errorf("on_failure %s: %d calls, want 1", on, calls)
		}
		kept := map[string]string{"dlq": "1", "alert": "1", "log": "0"}[on]
		if got := r.jobs(deadLetter); got != kept {
			t.Errorf("on_failure %s: %s dead letters, want %s", on, got, kept)
		}
		alert := strings.Contains(run.get(t, "/metrics").body, `weir_alerts_total{observer="hook"} 1`)
		if alert != (on == "alert") {
			t.Errorf("on_failure %s: alert %v", on, alert)
		}
		run.stop(t)
		r.exec("DELETE FROM weir.river_job")
	}
}

// What was wrong when the change was read is evaluated again when the dead letter is retried.
func TestCorrectedDeadLettersAreDelivered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	misspelt := hook(rc.URL, "", "condition: totl > 100")
	run := r.started(misspelt)
	r.order(`{"total": 150}`)
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data) VALUES ('Order', 'UPSERT', gen_random_uuid(), '{"total": 200}')`)
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_data) VALUES ('Order', 'INSERT', '{"total": 300}')`)
	r.await("three dead letters", func() bool { return r.jobs("kind = 'weir_change' AND "+deadLetter) == "3" })
	for _, want := range []string{"totl", "UPSERT", "object_id is NULL"} {
		if r.jobs("errors::text LIKE '%"+want+"%'") != "1" {
			t.Errorf("no dead letter says %q", want)
		}
	}
	if n := len(rc.seen()); n != 0 {
		t.Fatalf("%d deliveries of what could not be matched", n)
	}
	run.stop(t)
	r.started(hook(rc.URL, "", "condition: total > 100"))
	r.exec("UPDATE core.tb_entity_change_log SET modification_type = 'INSERT', object_id = coalesce(object_id, gen_random_uuid())")
	r.exec(retryAll)
	r.await("three deliveries", func() bool { return len(rc.seen()) == 3 && r.jobs("state = 'completed'") == "6" })
	r.exec(retryAll)
	if n := r.jobs("true"); n != "6" {
		t.Errorf("%s jobs, want 6: each change once", n)
	}
}

const retryAll = `UPDATE weir.river_job SET state = 'available', attempt = 0, finalized_at = NULL, scheduled_at = now(),
	metadata = metadata - 'weir_dead_letter' WHERE ` + deadLetter

// A slow place holds back nothing else.
func TestEndpointsAreIsolated(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := make(chan struct{})
	slow := newReceiver(t, func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-release:
		case <-req.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	quick := newReceiver(t, nil)
	const events = 500
	r.started(fmt.Sprintf(`
outbound: {allow: ["127.0.0.1"]}
observers:
  slow: {entity: Order, actions: [{type: webhook, url: %q, timeout: 30s}]}
  quick: {entity: Order, actions: [{type: webhook, url: %q}]}
`, slow.URL, quick.URL))
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), '{}' FROM generate_series(1, $1)`, events)
	r.await("the quick ones", func() bool { return len(quick.seen()) == events })
	if done := r.jobs("state = 'completed' AND args->>'observer' = 'slow'"); done != "0" {
		t.Errorf("%s slow deliveries are done: the test proves nothing", done)
	}
}

func TestInnerAddressesAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	inner := newReceiver(t, nil)
	port := inner.URL[strings.LastIndex(inner.URL, ":"):]
	redirecting := newReceiver(t, func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, inner.URL, http.StatusTemporaryRedirect)
	})
	var config strings.Builder
	config.WriteString("observers:\n")
	for i, host := range []string{"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "localhost"} {
		fmt.Fprintf(&config, "  o%d: {entity: Order, actions: [{type: webhook, url: \"http://%s%s/\"}]}\n", i, host, port)
	}
	run := r.started(config.String())
	r.order(`{}`)
	r.await("refusals", func() bool { return r.jobs(deadLetter) == "5" })
	if n := r.jobs("metadata->>'weir_dead_letter' = 'blocked_address' AND errors::text LIKE '%outbound.allow%'"); n != "5" {
		t.Errorf("%s of 5 dead letters say why: %s", n, r.one("SELECT string_agg(errors::text, ' ') FROM job"))
	}
	run.stop(t)
	r.exec("DELETE FROM weir.river_job")
	// Allowed, but its redirect is not followed.
	r.started(hook(redirecting.URL, ""))
	r.order(`{}`)
	r.await("the refusal", func() bool { return r.jobs(deadLetter) == "1" })
	if len(redirecting.seen()) != 1 || len(inner.seen()) != 0 {
		t.Errorf("%d calls, %d of them redirected", len(redirecting.seen()), len(inner.seen()))
	}
}

func TestValuesStayValues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	r.started(fmt.Sprintf(`
outbound: {allow: ["127.0.0.1"]}
observers:
  body:
    entity: Order
    actions:
      - type: webhook
        url: "%s/o/{{ name }}?q={{ name }}"
        body_template: '{"name": "{{ name }}", "whole": {{ name }}, "total": {{ total }}, "n": {{ n }}, "text": "{{ total }}/{{ n }}"}'
  header:
    entity: Order
    actions:
      - {type: webhook, url: %q, headers: {X-Name: "{{ crlf }}"}}
`, rc.URL, rc.URL))
	r.order(`{"name": "a\"b\n{{ total }}/c?d&e", "crlf": "a\r\nX-Evil: 1", "total": 100.10, "n": 9007199254740993123}`)
	r.await("both", func() bool { return r.jobs("state = 'completed'") == "1" && r.jobs(deadLetter) == "1" })
	got := rc.seen()
	if len(got) != 1 {
		t.Fatalf("%d requests, want 1: a header with a line break must not be sent", len(got))
	}
	const wantBody = `{"name": "a\"b\n{{ total }}/c?d&e", "whole": "a\"b\n{{ total }}/c?d&e", "total": 100.10, "n": 9007199254740993123, "text": "100.10/9007199254740993123"}`
	if got[0].body != wantBody {
		t.Errorf("body\n%s\nwant\n%s", got[0].body, wantBody)
	}
	const name = `a%22b%0A%7B%7B%20total%20%7D%7D%2Fc%3Fd`
	if got[0].path != "/o/"+name+"&e?q="+strings.ReplaceAll(name, "%20", "+")+"%26e" {
		t.Errorf("path %s: the value has left its place", got[0].path)
	}
}

// SIGTERM's soft stop lets a running delivery end, and cuts off one that takes too long without losing it.
func TestSoftStop(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	arrived := make(chan struct{}, 10)
	finish := make(chan struct{})
	rc := newReceiver(t, func(_ http.ResponseWriter, req *http.Request) {
		arrived <- struct{}{}
		select {
		case <-finish:
		case <-req.Context().Done():
		}
	})
	run := r.started(hook(rc.URL, ""))
	r.order(`{}`)
	<-arrived
	run.cancel()
	close(finish) // within shutdown_timeout
	run.stop(t)
	if got := r.jobs("state = 'completed'"); got != "1" {
		t.Fatalf("%s completed: a running delivery was not given its time", got)
	}

	rc.behave(func(_ http.ResponseWriter, req *http.Request) {
		arrived <- struct{}{}
		<-req.Context().Done()
	})
	run = r.started(hook(rc.URL, "") + "\n")
	r.order(`{}`)
	<-arrived
	run.stop(t) // after shutdown_timeout it is cut off
	if got := r.one("SELECT state || ' ' || attempt FROM job WHERE state <> 'completed'"); got != "available 0" {
		t.Fatalf("a delivery that was cut off is %s, want it available with no attempt used", got)
	}
	rc.behave(nil)
	r.started(hook(rc.URL, ""))
	r.await("the delivery", func() bool { return r.jobs("state = 'completed'") == "2" })
}

// What was queued for an old URL goes to the new one.
func TestQueuedDeliveriesUseTheNewURL(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	down := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	run := r.started(hook(down.URL, "", "retry: {initial_delay: 6s, backoff: fixed}"))
	r.order(`{}`)
	r.await("a failure", func() bool { return r.jobs("attempt = 1 AND state IN ('retryable', 'available')") == "1" })
	run.stop(t)
	up := newReceiver(t, nil)
	r.started(hook(up.URL, ""))
	r.await("the delivery", func() bool { return len(up.seen()) == 1 })
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	run := r.started("observers: {}\n")
	if got := run.get(t, "/healthz"); got.code != http.StatusOK {
		t.Errorf("/healthz: %d", got.code)
	}
	if got := run.get(t, "/readyz"); !strings.Contains(got.body, `"stream":"streaming"`) {
		t.Errorf("/readyz: %s", got.body)
	}
	second := r.started("observers: {}\n")
	if got := second.get(t, "/readyz"); !strings.Contains(got.body, `"stream":"standby"`) {
		t.Errorf("a standby is ready: %s", got.body)
	}
	r.order(`{}`)
	r.await("the event", func() bool { return r.one("SELECT count(*)::text FROM weir.event") == "1" })
}

func TestNotMigratedIsRefused(t *testing.T) {
	t.Parallel()
	r := rigOn(t, postgres.EmptyDatabase(t))
	run := r.start("observers: {}\n")
	<-run.done
	if run.err == nil || !strings.Contains(run.err.Error(), "weir migrate up") {
		t.Errorf("got %v", run.err)
	}
	run.err = nil
}

// The other types go the same way: a row, a job of their kind, the real request.
func TestOneCommitOneSlackMessage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, nil)
	r.started(`
outbound: {allow: ["127.0.0.0/8"]}
observers:
  chat:
    entity: Order
    actions:
      - {type: slack, webhook_url_env: SLACK, channel: "#orders", message_template: "{{ html }} {{ total }}"}
`, "SLACK="+rc.URL+"/services/hunter2")
	r.order(`{"total": 100.10, "html": "<a & b>"}`)
	r.await("completed", func() bool { return r.jobs("state = 'completed' AND kind = 'weir_slack'") == "1" })
	seen := rc.seen()
	if len(seen) != 1 || seen[0].path != "/services/hunter2" ||
		seen[0].body != `{"text":"&lt;a &amp; b&gt; 100.10","channel":"#orders"}` {
		t.Errorf("got %+v", seen)
	}
	if text := r.one("SELECT string_agg(j::text, '') FROM job j"); strings.Contains(text, "hunter2") {
		t.Error("the URL leaked into the job")
	}
}
