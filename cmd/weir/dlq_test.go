package main

import (
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/ops"
)

func TestDeadLetterList(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	weir(t, "dlq", "list", "--database-url", url).exits(0).says("no dead letters: every delivery was made")
	weir(t, "dlq", "list", "--format", "json", "--database-url", url).exits(0).says(`"dead_letters": []`)

	first := deadLetter(t, db, "orders", "connection refused")
	second := deadLetter(t, db, "mailer", "mailbox full")
	list := weir(t, "dlq", "list", "--database-url", url).exits(0).
		says("ID", "OBSERVER/ACTION", first, "orders/notify", "UPDATE Order order-1", "3 of 3", "connection refused")
	if strings.Index(list.stdout, second) > strings.Index(list.stdout, first) {
		t.Errorf("the newest is not first:\n%s", list.stdout)
	}

	var page ops.DeadLetterPage
	weir(t, "dlq", "list", "--limit", "1", "--format", "json", "--database-url", url).exits(0).json(&page)
	if len(page.DeadLetters) != 1 || page.DeadLetters[0].Observer != "mailer" {
		t.Errorf("first page %+v", page)
	}
	weir(t, "dlq", "list", "--limit", "1", "--database-url", url).exits(0).says("There are more: --after " + second)
	weir(t, "dlq", "list", "--limit", "1", "--after", second, "--database-url", url).exits(0).says("orders/notify")
	weir(t, "dlq", "list", "--since", "1h", "--error", "MAILBOX", "--database-url", url).exits(0).says("mailer/notify")
	weir(t, "dlq", "list", "--since", "2999-01-01T00:00:00Z", "--database-url", url).exits(0).says("no dead letters match")
	weir(t, "dlq", "list", "--format", "yaml", "--database-url", url).exits(0).
		says("dead_letters:\n  - job_id: "+second, "    observer: mailer\n", "after: 0\n")
}

func TestDeadLetterShow(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	id := deadLetter(t, db, "orders", "connection refused")
	weir(t, "dlq", "show", id, "--database-url", url).exits(0).
		says("webhook-id", "attempts_exhausted", "dead (503) in 12 ms", "connection refused", "weir dlq retry "+id)
	record(t, db, shippedOrder(1))
	weir(t, "dlq", "show", id, "--database-url", url).exits(0).says(`"big": 9007199254740993123`, `"total": 100.10`)
	weir(t, "dlq", "show", id, "--format", "json", "--database-url", url).exits(0).says(`"big": 9007199254740993123`)
	weir(t, "dlq", "show", id, "--format", "yaml", "--database-url", url).exits(0).
		says("big: 9007199254740993123\n", "total: 100.10\n", "duration_ms: 12\n")
	weir(t, "dlq", "show", "99", "--database-url", url).exits(1).complains("job 99: no dead letter")
}

func TestDeadLetterRetry(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	first := deadLetter(t, db, "orders", "x")
	deadLetter(t, db, "mailer", "x")

	weir(t, "dlq", "retry", first, "--dry-run", "--database-url", url).exits(0).says("1 dead letter would be retried; nothing was changed")
	weir(t, "dlq", "retry-all", "--dry-run", "--database-url", url).exits(0).says("2 dead letters would be retried")
	if got := states(t, db); got != "discarded 3, discarded 3" {
		t.Fatalf("after dry runs: %s", got)
	}

	var act ops.Act
	weir(t, "dlq", "retry", first, "99", "--format", "json", "--database-url", url).exits(1).
		complains("no dead letter, or no longer one: 99").json(&act)
	if act.Changed != 1 || len(act.Missing) != 1 || act.Missing[0] != 99 {
		t.Errorf("act %+v", act)
	}
	if got := states(t, db); got != "available 0, discarded 3" {
		t.Fatalf("after retry: %s", got)
	}

	weir(t, "dlq", "retry-all", "--observer", "nobody", "--database-url", url).exits(0).says("no dead letters match")
	weir(t, "dlq", "retry-all", "--observer", "mailer", "-v", "--database-url", url).exits(0).
		says("retried 1 dead letter").complains("1 so far")
	if got := states(t, db); got != "available 0, available 0" {
		t.Fatalf("after retry-all: %s", got)
	}
	weir(t, "dlq", "retry", first, "--database-url", url).exits(1).says("retried 0 dead letters").complains(first)
}

func TestDeadLetterRemove(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	first := deadLetter(t, db, "orders", "x")
	for range 3 {
		deadLetter(t, db, "mailer", "x")
	}
	left := func(want int) {
		t.Helper()
		if got := strings.Count(states(t, db), "discarded"); got != want {
			t.Fatalf("%d dead letters are left, want %d", got, want)
		}
	}
	weir(t, "dlq", "remove", first, "--database-url", url).exits(2).complains("not a terminal", "--yes")
	weir(t, "dlq", "remove", "--all", "--database-url", url).exits(2).complains("not a terminal", "--yes")
	weir(t, "dlq", "remove", "--all", "--dry-run", "--database-url", url).exits(0).says("4 dead letters would be removed")
	asked := call{args: []string{"dlq", "remove", "--all", "--database-url", url}, stdin: "n\n"}
	asked.run(t).exits(1).complains("remove 4 dead letters for good? [y/N]", "nothing was done")
	left(4)

	weir(t, "dlq", "remove", first, "--yes", "--database-url", url).exits(0).says("removed 1 dead letter\n")
	left(3)
	weir(t, "dlq", "remove", "--all", "--observer", "orders", "--yes", "--database-url", url).exits(0).says("no dead letters match")
	left(3)
	asked.stdin = "yes\n"
	asked.run(t).exits(0).says("removed 3 dead letters")
	left(0)
	asked.run(t).exits(0).says("no dead letters match")
}

func TestDeadLetterStats(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	weir(t, "dlq", "stats", "--database-url", url).exits(0).says("no dead letters")
	weir(t, "dlq", "stats", "--format", "json", "--database-url", url).exits(0).says(`"groups": []`)
	deadLetter(t, db, "orders", "x")
	deadLetter(t, db, "orders", "x")
	weir(t, "dlq", "stats", "--database-url", url).exits(0).says("orders", "attempts_exhausted", "2 dead letters")
	var stats ops.DeadLetterStats
	weir(t, "dlq", "stats", "--format", "json", "--database-url", url).exits(0).json(&stats)
	if stats.Total != 2 || len(stats.Groups) != 1 || stats.Groups[0].Count != 2 {
		t.Errorf("stats %+v", stats)
	}
}

func TestDeadLetterWrongUse(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"show"},
		{"show", "x"},
		{"show", "1", "2"},
		{"retry"},
		{"retry", "-5"},
		{"retry", "0"},
		{"retry-all", "7"},
		{"remove"},
		{"remove", "1", "--all"},
		{"remove", "1", "--observer", "x"},
		{"remove", "--observer", "x"},
		{"list", "--since", "yesterday"},
		{"list", "--limit", "0"},
		{"list", "--limit", "many"},
		{"list", "all"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			weir(t, append([]string{"dlq"}, args...)...).exits(2).complains("See weir dlq " + args[0] + " --help.")
		})
	}
}
