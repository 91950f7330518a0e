package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/ops"
)

// narrow fails for a line that a terminal of 80 columns would break, unless it is a command to be copied.
func (r result) narrow() result {
	r.t.Helper()
	for line := range strings.Lines(r.stdout) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 && !strings.HasPrefix(line, "To go on: weir ") {
			r.t.Errorf("%d columns: %s", n, line)
		}
	}
	return r
}

const pausable = `observers:
  order-shipped: {entity: Order, actions: [{type: webhook, name: notify, url: "https://erp.example.org/hook"}]}
  order-paid: {entity: Order, actions: [{type: log}]}
`

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, _ := slotFile(t, db, pausable)
	run := func(args ...string) result {
		t.Helper()
		return weir(t, append(args, "--config", path, "--database-url", url)...).narrow()
	}
	run("resume").exits(0).says("no deliveries are paused")
	run("pause", "--reason", "the ERP moves").exits(0).
		says("paused: all deliveries\n", "Events go on being recorded, and their deliveries wait.", "To go on: weir resume\n")
	run("pause").exits(0).says("paused already: all deliveries\n  paused ", "\n  the ERP moves\n")
	run("pause", "--endpoint", "erp.example.org", "--observer", "order-paid,order-shipped").exits(0).
		says("paused: endpoint erp.example.org\n", "paused: observer order-paid\n", "paused: observer order-shipped\n",
			"weir resume --endpoint erp.example.org --observer order-paid --observer order-shipped")
	run("pause", "--endpoint", "erp.example.org").exits(0).says("paused already: endpoint erp.example.org\n")

	var status ops.Status
	run("status", "--format", "json").exits(0).json(&status)
	if n := len(status.Paused); n != 4 {
		t.Fatalf("%d are paused: %+v", n, status.Paused)
	}
	p := status.Paused[0]
	if p.Scope != ops.ScopeDeliveries || p.Name != "" || p.Since.String() == "" || !strings.Contains(p.By, "@") || p.Reason != "the ERP moves" {
		t.Errorf("got %+v", p)
	}
	run("status").exits(0).says("all deliveries: paused ", "\n  the ERP moves\n", "observer order-paid: paused",
		"Let deliveries go on with: weir resume\n")

	run("resume", "--observer", "order-paid").exits(0).
		says("resumed: observer order-paid\n  was paused ", "still paused: all deliveries\n", "still paused: observer order-shipped\n")
	run("resume", "--observer", "order-paid").exits(0).says("not paused: observer order-paid\n")
	var done ops.Pauses
	run("resume", "--format", "json").exits(0).json(&done)
	if len(done.Changed) != 3 || len(done.Unchanged) != 0 || len(done.Paused) != 0 || done.Paused == nil || done.Slot != nil {
		t.Errorf("got %+v", done)
	}
	run("resume").exits(0).says("no deliveries are paused")
	run("status", "--format", "json").exits(0).says(`"paused": []`)
}

// A name that nobody knows, by a configuration or without one.
func TestPauseUnknownNames(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, _ := slotFile(t, db, pausable)
	with := []string{"--config", path, "--database-url", url}
	weir(t, append([]string{"pause", "--endpoint", "erp"}, with...)...).exits(2).
		complains("there is no endpoint erp: expected one of erp.example.org, log")
	weir(t, append([]string{"pause", "--observer", "order-paid", "--observer", "order"}, with...)...).exits(2).
		complains("there is no observer order: expected one of order-paid, order-shipped")
	weir(t, "pause", "--endpoint", "erp", "--database-url", url).exits(2).
		complains("there is no endpoint erp: none is known, neither from a configuration nor from the database")
	weir(t, "resume", "--observer", "order-paid", "--database-url", url).exits(2).complains("there is no observer order-paid: none is known")
	weir(t, "pause", "erp").exits(2).complains("takes no argument")
	endpoint(t, db, "crm.example.org")
	deadLetter(t, db, "order-paid", "no")
	weir(t, "pause", "--endpoint", "crm.example.org", "--observer", "order-paid", "--database-url", url).exits(0).
		says("paused: endpoint crm.example.org\n", "paused: observer order-paid\n")
	weir(t, "status", "--database-url", url).exits(0).says("endpoint crm.example.org: paused ")
}

// The pause of the stream says what it costs, asks, and is not lifted with those of deliveries.
func TestPauseStream(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	path, slot := slotFile(t, db, "")
	with := []string{"--stream", "--config", path, "--database-url", url}
	run := func(args ...string) result {
		t.Helper()
		return weir(t, append(args, with...)...).narrow()
	}
	run("pause").exits(2).complains("stop reading the stream, which has no slot yet", "say --yes")
	exec(t, db, `CREATE PUBLICATION weir FOR TABLE core.tb_entity_change_log WITH (publish = 'insert')`)
	exec(t, db, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
	no := call{args: append([]string{"pause"}, with...), stdin: "n\n"}
	no.run(t).exits(1).complains("slot "+slot+" then holds WAL until the disk is full", "? [y/N]", "nothing was done")
	run("resume").exits(0).says("not paused: the stream\n")

	run("pause", "--yes").exits(0).says("paused: the stream\n", fmt.Sprintf("From now on slot %s holds the server's WAL.\nIt holds ", slot),
		"max_slot_wal_keep_size is not set", "weir resume --stream")
	var again ops.Pauses
	run("pause", "--yes", "--format", "json").exits(0).json(&again)
	if len(again.Unchanged) != 1 || again.Slot == nil || again.Slot.Slot != slot || again.Slot.RetainedBytes <= 0 || again.Slot.LimitBytes != nil {
		t.Errorf("got %+v, slot %+v", again, again.Slot)
	}
	weir(t, "status", "--config", path, "--database-url", url).exits(0).says("paused: nobody reads it, and its slot holds WAL",
		"the stream: paused ", "Read the stream again with: weir resume --stream\n")
	weir(t, "resume", "--config", path, "--database-url", url).narrow().exits(0).says("no deliveries are paused\n", "still paused: the stream\n",
		"its slot holds WAL; to go on: weir resume --stream\n")
	run("resume").exits(0).says("resumed: the stream\n")
	weir(t, "status", "--config", path, "--database-url", url).exits(0).says("stopped: nobody reads it")
}

// What a server with a limit is said to do.
func TestHeldWAL(t *testing.T) {
	t.Parallel()
	limit := int64(10 << 30)
	held := &ops.HeldSlot{Slot: "weir", RetainedBytes: 3 << 20, LimitBytes: &limit}
	if got, want := heldText(held), "whose slot weir then holds WAL up to 10.0 GB (3.0 MB now)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var w strings.Builder
	writeHeld(&w, held)
	if want := "It holds 3.0 MB already.\nBeyond max_slot_wal_keep_size, 10.0 GB, the stream loses its continuity.\n"; !strings.HasSuffix(w.String(), want) {
		t.Errorf("got %q, want %q at its end", w.String(), want)
	}
}
