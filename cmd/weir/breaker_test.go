package main

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/ops"
)

func endpoint(t *testing.T, db *pgx.Conn, name string) {
	t.Helper()
	_, err := db.Exec(t.Context(), "INSERT INTO weir.endpoint (name) VALUES ($1)", name)
	check(t, err)
}

func TestBreakers(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	breaker := func(args ...string) result {
		t.Helper()
		return weir(t, append([]string{"breaker", "--database-url", url}, args...)...)
	}
	breaker("list").exits(0).says("no endpoints: no worker has started yet")
	breaker("open", "erp").exits(2).complains("there is no endpoint erp: no worker has started yet")
	endpoint(t, db, "crm.example.org")
	endpoint(t, db, "erp")
	breaker("list").exits(0).says("ENDPOINT", "erp", "closed")
	breaker("open", "er").exits(2).complains("there is no endpoint er: expected one of crm.example.org, erp")
	breaker("open", "erp", "--for", "soon").exits(2).complains(`--for "soon": expected how long, as in 10m or 2h`)
	breaker("open").exits(2)

	breaker("open", "erp", "--reason", "it moves").exits(0).says("open: no deliveries to erp, until somebody closes it")
	breaker("open", "crm.example.org", "--for", "10m").exits(0).says("open: no deliveries to crm.example.org, for 10 min 0 s")
	breaker("list").exits(0).says("until somebody closes it", "it moves", "for ", "@")
	weir(t, "status", "--database-url", url).exits(0).says("circuit breaker of erp: open since", "weir breaker list")

	var list ops.Breakers
	breaker("list", "--format", "json").exits(0).json(&list)
	if n := len(list.Endpoints); n != 2 || len(list.NotClosed()) != 2 {
		t.Fatalf("%d endpoints: %+v", n, list)
	}
	if e := list.Endpoints[1]; e.Endpoint != "erp" || e.Until.String() != "" || e.Reason != "it moves" || !e.Manual ||
		!strings.Contains(e.By, "@") {
		t.Errorf("erp is %+v", e)
	}
	if e := list.Endpoints[0]; e.Until.String() == "" {
		t.Errorf("crm is %+v", e)
	}

	breaker("close", "erp").exits(0).says("closed: deliveries to erp go on")
	breaker("list", "--format", "yaml").exits(0).says("endpoint: erp\n    state: closed\n")
}

func TestGoneActions(t *testing.T) {
	t.Parallel()
	url, db := database(t)
	_, err := db.Exec(t.Context(), "INSERT INTO weir.gone (observer, action, target) VALUES ('order-shipped', 'notify', 'x')")
	check(t, err)
	endpoint(t, db, "erp")
	weir(t, "breaker", "list", "--database-url", url).exits(0).says("GONE", "order-shipped/notify")
	weir(t, "status", "--database-url", url).exits(0).says("action order-shipped/notify: gone since")
	weir(t, "breaker", "close", "order-shipped/x", "--database-url", url).exits(2).
		complains("there is no action order-shipped/x that is gone: expected one of erp, order-shipped/notify")
	weir(t, "breaker", "open", "order-shipped/notify", "--database-url", url).exits(2).complains("expected one of erp")
	weir(t, "breaker", "close", "order-shipped/notify", "--database-url", url).exits(0).
		says("closed: new deliveries of order-shipped/notify are made", "weir dlq retry-all --observer order-shipped --action notify")
	weir(t, "breaker", "list", "--format", "json", "--database-url", url).exits(0).says(`"gone": []`)
}
