package worker_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// takeoverLimit is how long the stream may be without a reader when its owner has died or given it up.
const takeoverLimit = 2 * time.Second

const fleetConfig = `
source: {url: %q, slot: %s, heartbeat: 1s, lease: %s}
shutdown_timeout: %s
outbound: {allow: ["127.0.0.0/8"]}
observers:
  every-second:
    entity: Order
    condition: even
    actions: [{type: log, level: debug}]
  hook:
    entity: Order
    condition: n %% 10 == 0
    actions: [{type: webhook, url: %q, timeout: 1m}]
`

// fleet is several workers on one stream, under a load.
type fleet struct {
	*rig
	t       *testing.T
	config  string
	rc      *receiver
	members []*process

	stop    context.CancelFunc // of the load
	written chan error
}

type fleetOptions struct {
	lease, shutdown time.Duration
	answer          func(http.ResponseWriter, *http.Request)
	// How the first worker, which becomes the owner, reaches its servers; "" for the way of all.
	database, source string
}

// newFleet starts three workers.
func newFleet(t *testing.T, r *rig, o fleetOptions) *fleet {
	t.Helper()
	f := &fleet{rig: r, t: t, rc: newReceiver(t, o.answer)}
	f.config = f.configure(o)
	o.database, o.source = "", ""
	f.join()
	f.await("an owner", func() bool { return f.reader() != "" })
	f.config = f.configure(o)
	f.join()
	f.join()
	return f
}

// configure writes a configuration file.
func (f *fleet) configure(o fleetOptions) string {
	direct := f.url
	defer func() { f.url = direct }()
	f.url = cmp.Or(o.database, direct)
	return f.write(fmt.Sprintf(fleetConfig, cmp.Or(o.source, direct), f.slot, o.lease, o.shutdown, f.rc.URL))
}

func (f *fleet) join() *process {
	f.t.Helper()
	p := f.spawn(f.t, f.config)
	f.members = append(f.members, p)
	return p
}

func (f *fleet) leave(p *process) {
	f.members = slices.DeleteFunc(f.members, func(m *process) bool { return m == p })
}

const readerSQL = `SELECT coalesce((SELECT replace(coalesce(a.application_name, 'pid ' || s.active_pid), 'weir:', '')
	FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = $1 AND s.active), '')`

// reader is the client id of the worker that has the slot, "" for none.
func (f *fleet) reader() string { return f.one(readerSQL, f.slot) }

// owner is the member that has the slot.
func (f *fleet) owner() *process {
	f.t.Helper()
	var found *process
	f.await("one of the workers to own the stream", func() bool {
		client := f.reader()
		for _, m := range f.members {
			if m.clientID() == client {
				found = m
			}
		}
		return found != nil
	})
	return found
}

// awaitOwner waits for another reader than before, and for its first batch.
func (f *fleet) awaitOwner(before string, since time.Time) (slot, moved time.Duration) {
	f.t.Helper()
	f.await("another owner", func() bool { client := f.reader(); return client != "" && client != before })
	slot = time.Since(since)
	f.await("its first batch", func() bool {
		return f.one("SELECT (owner <> $1 AND updated_at > owned_since)::text FROM weir.checkpoint", before) == "true"
	})
	return slot, time.Since(since)
}

// load commits about 500 changes a second until it is told to stop.
func (f *fleet) load() {
	ctx, cancel := context.WithCancel(f.t.Context())
	f.stop, f.written = cancel, make(chan error, 1)
	go func() {
		w := &writer{ctx: context.WithoutCancel(ctx), url: f.url}
		defer w.close()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				f.written <- nil
				return
			case <-tick.C:
			}
			if err := w.transaction(10, n%10 == 0); err != nil {
				f.written <- err
				return
			}
		}
	}()
	f.t.Cleanup(cancel)
}

// settle stops the load and compares everything with the change log, which is the truth.
func (f *fleet) settle() {
	f.t.Helper()
	f.stop()
	if err := <-f.written; err != nil {
		f.t.Fatal(err)
	}
	total := f.one("SELECT count(*)::text FROM core.tb_entity_change_log")
	f.awaitFor(2*time.Minute, "all events", func() bool {
		return f.one("SELECT (count(*) >= $1::text::bigint)::text FROM weir.event", total) == "true"
	})
	began := time.Now()
	f.awaitFor(2*time.Minute, "the end of all jobs", func() bool { return f.jobs("finalized_at IS NULL") == "0" })
	f.t.Logf("the last job ended %s after the last change was ingested", time.Since(began).Round(time.Millisecond))
	if n := f.one("SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || count(DISTINCT pk) FROM weir.event"); n != total+" "+total+" "+total {
		f.t.Errorf("events, distinct ids, distinct keys: %s, want %s of each", n, total)
	}
	for observer, condition := range map[string]string{
		"every-second": "(object_data->>'even')::boolean", "hook": "(object_data->>'n')::int % 10 = 0",
	} {
		want := f.one("SELECT count(*)::text FROM core.tb_entity_change_log WHERE " + condition)
		got := f.one("SELECT count(*) || ' ' || count(DISTINCT pk) FROM ("+deliveries+") d WHERE observer = $1", observer)
		if got != want+" "+want {
			f.t.Errorf("%s: jobs and their changes: %s, want %s of each", observer, got, want)
		}
		lost := f.one("SELECT count(*)::text FROM (SELECT pk_entity_change_log FROM core.tb_entity_change_log WHERE "+condition+
			" EXCEPT SELECT pk FROM ("+deliveries+") d WHERE observer = $1) l", observer)
		if lost != "0" {
			f.t.Errorf("%s: %s changes lost", observer, lost)
		}
	}
	f.checkDelivered(total)
}

// deliveries are each a job or, when it has been over for a while, an outcome.
const deliveries = `SELECT args->>'observer' AS observer, (args->>'pk')::bigint AS pk FROM job
	UNION ALL SELECT observer, event_pk FROM weir.outcome`

// checkDelivered wants each delivery to have come to its end, and each webhook at least once at its receiver.
func (f *fleet) checkDelivered(total string) {
	f.t.Helper()
	if n := f.jobs("state <> 'completed'"); n != "0" {
		f.t.Errorf("%s jobs failed", n)
	}
	seen, requests := map[string]bool{}, f.rc.seen()
	for _, req := range requests {
		seen[req.id] = true
	}
	if want := f.jobs("args->>'observer' = 'hook'"); strconv.Itoa(len(seen)) != want {
		f.t.Errorf("the receiver saw %d deliveries of %s", len(seen), want)
	}
	f.t.Logf("%s changes, %s jobs, %d webhooks of which %d were repeats", total, f.jobs("true"), len(requests), len(requests)-len(seen))
}

// vacancy watches the slot until it is told to stop, and returns the longest time for which nobody had it.
func (f *fleet) vacancy() (longest func() time.Duration) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(f.t.Context()))
	conn, err := pgx.Connect(ctx, f.url)
	if err != nil {
		f.t.Fatal(err)
	}
	var worst time.Duration
	var watching sync.WaitGroup
	watching.Go(func() {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		owned := time.Now() // when somebody was last seen to have it
		for ctx.Err() == nil {
			var client string
			asked := time.Now()
			if err := conn.QueryRow(ctx, readerSQL, f.slot).Scan(&client); err != nil {
				return // told to stop
			}
			if client != "" {
				worst = max(worst, time.Since(owned))
				owned = asked
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	stop := func() { cancel(); watching.Wait() }
	f.t.Cleanup(stop)
	return func() time.Duration { stop(); return worst }
}

// times sums up durations for people.
func times(all []time.Duration) (median, worst time.Duration) {
	slices.Sort(all)
	return all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond)
}
