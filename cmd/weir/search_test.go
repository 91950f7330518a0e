package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/ops"
)

func TestSearch(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	search := func(args ...string) result {
		t.Helper()
		return weir(t, append([]string{"search", "--database-url", url}, args...)...)
	}
	search().exits(0).says("no events match\n")
	search("--format", "json").exits(0).says(`"hits": []`, `"after": 0`, `"store": "postgres"`, `"lag_seconds": 0`)

	old := at(1, 48*time.Hour, `{"status":"paid","customer":"Acme","total":100.10}`)
	shipped := at(2, time.Minute, `{"status":"shipped","customer":"Acme","big":9007199254740993123}`)
	other := at(3, 0, `{"status":"shipped","customer":"Globex"}`)
	other.EntityType = "Invoice"
	record(t, db, old, shipped, other)
	someJob(t, db, shipped, "hook", "completed", delivered)
	someJob(t, db, shipped, "mailer", "retryable", "{}")
	movedOutcome(t, db, old, "hook", "dead", "connection refused")
	inPostgres(t, url)

	for _, tt := range []struct {
		args string
		want string // orders, the newest first
	}{
		{"", "3 2 1"},
		{"status:shipped", "3 2"},
		{"status:shipped customer:acme", "2"},
		{"-- -shipped acme", "1"},
		{"--since 24h acme", "2"},
		{"--until 24h", "1"},
		{"--since " + time.Now().UTC().Add(-72*time.Hour).Format(time.DateOnly) + " acme", "2 1"},
		{"--since " + time.Now().Add(time.Hour).Format(time.RFC3339), ""},
		{"--entity Order", "2 1"},
		{"--entity Order/order-1", "1"},
		{"--entity Order/order-3", ""},
		{"--observer hook", "2 1"},
		{"--outcome dead", "1"},
		{"--outcome delivered", "2"},
		{"--observer mailer", ""},
		{"error:refused", "1"},
		{"--limit 1 --store postgres", "3"},
	} {
		var found ops.Found
		search(append([]string{"--format", "json"}, strings.Fields(tt.args)...)...).exits(0).json(&found)
		var got []string
		for _, hit := range found.Hits {
			got = append(got, fmt.Sprint(hit.PK))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("weir search %s: got %v, want %s", tt.args, got, tt.want)
		}
	}

	search("acme").exits(0).says("UPDATE Order order-2", shipped.ID.String(), `{"status":"shipped","customer":"Acme"`,
		"hook/notify", "delivered (200) in 12 ms", "attempt 1 of 3", "mailer/notify", "retryable", "503 Service Unavailable",
		"dead (503) in 34 ms", "2 attempts", "connection refused")
	search("acme", "--format", "json").exits(0).says(`"big": 9007199254740993123`, `"total": 100.10`, `"moved": true`)
}

func TestSearchPages(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	for n := int64(1); n <= 5; n++ {
		record(t, db, shippedOrder(n))
	}
	inPostgres(t, url)
	var seen []string
	for after, pages := int64(0), 0; ; pages++ {
		if pages > 5 {
			t.Fatal("the pages never end")
		}
		args := []string{"search", "shipped", "--limit", "2", "--after", fmt.Sprint(after), "--database-url", url}
		var page ops.Found
		weir(t, append(args, "--format", "json")...).exits(0).json(&page)
		for _, hit := range page.Hits {
			seen = append(seen, fmt.Sprint(hit.PK))
		}
		if after = page.After; after == 0 {
			break
		}
		weir(t, args...).exits(0).says(fmt.Sprintf("\nThere are more: --after %d\n", after))
	}
	if got := strings.Join(seen, " "); got != "5 4 3 2 1" {
		t.Errorf("got %s", got)
	}
}

func TestSearchHighlights(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	record(t, db, at(1, 0, `{"filler":"`+strings.Repeat("lorem ipsum ", 40)+`","status":"Shipped","note":"é"}`))
	inPostgres(t, url)
	args := []string{"search", "status:ship*", "--database-url", url}
	const marked = "\x1b[33mShipped\x1b[0m"
	shown := call{args: args, color: true}.run(t).exits(0).says(marked, "…", "é")
	if line := strings.Split(shown.stdout, "\n")[1]; len(line) > 250 {
		t.Errorf("the excerpt is long: %s", line)
	}
	for _, plain := range []call{
		{args: args},
		{args: append(args, "--no-color"), color: true},
		{args: args, color: true, env: map[string]string{"NO_COLOR": "1"}},
		{args: append(args, "--format", "json"), color: true},
	} {
		if got := plain.run(t).exits(0); strings.Contains(got.stdout, "\x1b") || !strings.Contains(got.stdout, "Shipped") {
			t.Errorf("%v: got %q", plain.args, got.stdout)
		}
	}
}

// What has just been recorded is not there yet, and nobody is about to bring it.
func TestSearchLags(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	record(t, db, shippedOrder(1))
	weir(t, "search", "--database-url", url).exits(0).says("no events match").
		complains("of events are not searchable yet: is a worker running? see weir status")
	inPostgres(t, url)
	if got := weir(t, "search", "--database-url", url).exits(0).says("order-1"); got.stderr != "" {
		t.Errorf("got %s", got.stderr)
	}
	weir(t, "status", "--database-url", url).exits(0).says("history", "postgres: up to event 1, written to ")
	weir(t, "status", "--format", "json", "--database-url", url).exits(0).says(`"store": "postgres"`, `"event_seq": 1`)
}

func TestSearchWrongUse(t *testing.T) {
	t.Parallel()
	url, _ := database(t)
	for _, args := range [][]string{
		{"(open"},
		{"a", "AND", "b"},
		{"--since", "yesterday"},
		{"--until", "yesterday"},
		{"--since", "1h", "--until", "2h"},
		{"--entity", "/4711"},
		{"--entity", "Order/"},
		{"--outcome", "lost"},
		{"--limit", "0"},
		{"--limit", "1001"},
		{"--after", "-1"},
		{"--store", "redis"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			weir(t, append([]string{"search", "--database-url", url}, args...)...).exits(2).complains("See weir search --help.")
		})
	}
	weir(t, "search", "--store", "elasticsearch", "--database-url", url).exits(3).complains("no section elasticsearch")
	mistaken := file(t, fmt.Sprintf("database: {url: %q}\nobservers: 7\n", url))
	weir(t, "search", "--config", mistaken).exits(3).complains("weir.yaml")
	weir(t, "search", "--store", "postgres", "--config", mistaken).exits(0).says("no events match")
	weir(t, "search", "--help").exits(0).says("status:shipped", "a OR b", "-cancelled")
}
