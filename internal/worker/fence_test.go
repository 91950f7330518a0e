package worker_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/store"
)

// otherRole is the configuration of a worker that logs in as a role which may not end the sessions of the first one, a
// superuser: nothing but the rows can keep a worker that wakes up from harm.
func (r *rig) otherRole(t *testing.T, rest string) (config string) {
	t.Helper()
	mine := r.url
	r.asRole(t, "REPLICATION BYPASSRLS", `GRANT USAGE ON SCHEMA weir, core, app TO {role};
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA weir, app TO {role};
		GRANT USAGE ON ALL SEQUENCES IN SCHEMA weir TO {role};
		GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA weir, app TO {role};
		GRANT SELECT ON core.tb_entity_change_log TO {role}`)
	config = r.write(rest)
	r.url = mine
	return config
}

// Who may not end the sessions of the dead says so, and takes over what they do not lock.
func TestCrashWithoutTheRightToEndSessions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE SCHEMA app")
	first, _ := hanging(t)
	victim := r.spawn(t, r.write(hook(first.URL, ", timeout: 2m")))
	r.order(`{}`)
	r.await("the first attempt", func() bool { return len(first.seen()) == 1 })
	victim.signal(t, syscall.SIGSTOP)
	second := newReceiver(t, nil)
	other := r.spawn(t, r.otherRole(t, hook(second.URL, "")))
	r.await("the end", func() bool { return r.jobs("state = 'completed'") == "1" })
	if !strings.Contains(other.log.String(), "GRANT pg_signal_backend") {
		t.Errorf("it does not say what mends it:\n%s", other.log)
	}
}

// giveAway is what happens to a job when its worker is declared dead.
func (r *rig) giveAway() {
	r.t.Helper()
	var id int64
	if err := r.conn.QueryRow(r.t.Context(), "SELECT id FROM job WHERE state = 'running'").Scan(&id); err != nil {
		r.t.Fatal(err)
	}
	rescued, err := store.New().RescueJobs(r.t.Context(), r.conn, store.RescueJobsParams{Mine: []int64{id}, MaxRows: 1, MaxDeaths: 5})
	if err != nil || len(rescued) != 1 {
		r.t.Fatalf("rescued %v (%v)", rescued, err)
	}
}

// A delivery is given away when its attempt has succeeded and is about to be concluded. The conclusion must not be that of
// the attempt which runs by then.
func TestLateConclusionFindsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	direct, reached := r.url, make(chan struct{})
	rc := newReceiver(t, nil)
	// The conclusion of housekeeping's job would come to the gate first, under load.
	r.exec("INSERT INTO weir.river_queue (name, paused_at, updated_at) VALUES ('weir_housekeeping', now(), now())")
	// A conclusion tells that it is over, also when it finds no job.
	r.exec(`CREATE SCHEMA app; CREATE TABLE app.concluded ();
		CREATE FUNCTION app.concludes() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.concluded DEFAULT VALUES; RETURN NULL; END';
		CREATE TRIGGER concludes AFTER UPDATE ON weir.river_job
			WHEN (current_query() LIKE '%JobSetStateIfRunningMany%') EXECUTE FUNCTION app.concludes()`)
	g, through := newGate(t, direct, place{says: "JobSetStateIfRunningMany"}, func() { close(reached) })
	r.url = through
	r.started(hook(rc.URL, ", timeout: 2m"))
	r.order(`{}`)
	<-reached
	second, answer := hanging(t)
	rc.behave(second.ServeHTTP)
	r.giveAway()
	r.await("the second attempt", func() bool { return len(rc.seen()) == 2 })
	g.release()
	r.await("the first conclusion", func() bool { return r.one("SELECT count(*)::text FROM app.concluded") != "0" })
	if state := r.one("SELECT state::text FROM job"); state != "running" {
		t.Errorf("the second attempt was concluded by the first: %s", state)
	}
	answer()
	r.await("the end", func() bool { return r.jobs("state = 'completed'") == "1" })
}

// A delivery is given away between its fetch and the lock on its job. Whoever has fetched it finds no such job any more, and
// does nothing; the same worker runs it under its new id.
func TestLateFunctionDoesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(effects)
	direct, reached := r.url, make(chan struct{})
	g, through := newGate(t, direct, place{says: "LockRunningJob"}, func() { close(reached) })
	r.url = through
	r.started(callFunction)
	r.url = direct
	r.order(`{"total": 1}`)
	<-reached
	r.giveAway()
	r.await("the new attempt", func() bool { return r.jobs("state = 'completed'") == "1" })
	g.release()
	r.order(`{"total": 2}`)
	r.await("another delivery", func() bool { return r.jobs("state = 'completed'") == "2" })
	r.await("the first attempt's end", func() bool {
		return r.one("SELECT count(*)::text FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()") == "0"
	})
	if got := r.one("SELECT string_agg(total::text, ' ' ORDER BY total) FROM app.effect"); got != "1 2" {
		t.Errorf("effects of the events 1 and 2: %s", got)
	}
}

// A worker whose lease is not renewed, for whatever reason, stops to fetch before others may declare it dead: what it
// fetched under its dead client id would be rescued from under it.
func TestStaleWorkerFetchesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rc := newReceiver(t, func(http.ResponseWriter, *http.Request) { time.Sleep(50 * time.Millisecond) })
	host := strings.TrimPrefix(rc.URL, "http://")
	config := fmt.Sprintf("endpoints: {%q: {concurrency: 1}}\n", host) + hook(rc.URL, "")
	r.spawn(t, r.write(config))
	time.Sleep(7 * time.Second) // from now on it may declare another dead
	direct := r.url
	g, through := newGate(t, direct, place{says: "RenewLease", always: true}, func() {})
	r.url = through
	stale := r.spawn(t, r.write(config))
	r.url = direct
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), '{}' FROM generate_series(1, 400)`)
	client := stale.clientID()
	attempts := func(since string) int {
		n, err := strconv.Atoi(r.one(`SELECT count(*)::text FROM job
			WHERE attempted_by[array_upper(attempted_by, 1)] = $1 AND attempted_at > $2::text::timestamptz`, client, since))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	r.await("it delivers", func() bool { return attempts("-infinity") > 0 })
	r.await("its death", func() bool {
		return r.one("SELECT count(*)::text FROM weir.worker WHERE client_id = $1", client) == "0"
	})
	died := r.one("SELECT clock_timestamp()::text")
	r.await("the other delivers on", func() bool { return r.jobs("attempted_at > '"+died+"'::timestamptz + interval '1 s'") != "0" })
	if n := attempts(died); n > 0 {
		t.Errorf("%d deliveries were fetched under the client id of the dead", n)
	}
	if r.jobs("state = 'available'") == "0" {
		t.Error("there was nothing to be fetched: this shows nothing")
	}
	g.release()
}
