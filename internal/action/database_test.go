package action

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/event"
)

func TestDatabaseParams(t *testing.T) {
	t.Parallel()
	c := mustDecode(t, `
type: database
function_name: App.On_Order
params:
  big: 9007199254740993123
  exact: 100.10
  "quo\"ted": "a\nb {{ total }}"
  yes: true
  none: null
  list: [1, two, {three: 3.5e+2}]
  block: |
    line
`[1:])
	d, ok := c.spec.(*Database)
	if !ok {
		t.Fatalf("got %T", c.spec)
	}
	const want = `{"big":9007199254740993123,"exact":100.10,"quo\"ted":"a\nb {{ total }}","yes":true,"none":null,` +
		`"list":[1,"two",{"three":3.5e+2}],"block":"line\n"}`
	if string(d.Params) != want || !json.Valid(d.Params) {
		t.Errorf("got  %s\nwant %s", d.Params, want)
	}
	if d.sql != `SELECT "App"."On_Order"($1::jsonb)` {
		t.Errorf("got %s", d.sql)
	}
}

// What a database action says about a failure: it is tried again, and the transaction did not take place.
func TestDatabaseRetriesWhatFails(t *testing.T) {
	t.Parallel()
	a := mustDecode(t, "{type: database, function_name: a.f}").Bind(Deps{})
	_, err := a.Do(t.Context(), Call{
		Event: &event.Event{}, Payload: []byte("{}"),
		CompleteTx: func(context.Context, func(context.Context, pgx.Tx) (event.Outcome, error)) error {
			return errors.New("gone")
		},
	})
	var failure *Error
	if !errors.As(err, &failure) || failure.Class != ClassRetry || failure.Error() != "a.f: gone" {
		t.Errorf("got %v", err)
	}
}

// A function that does not end in time is the endpoint's fault, one that a worker cuts off, or that raises an error, is not.
func TestDatabaseIsSickWhenItIsLate(t *testing.T) {
	t.Parallel()
	a := mustDecode(t, "{type: database, function_name: a.f}").Bind(Deps{})
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for name, tt := range map[string]struct {
		ctx  context.Context
		sick bool
	}{"late": {late, true}, "cut off": {stopped, false}, "failed": {t.Context(), false}} {
		_, err := a.Do(tt.ctx, Call{
			Event: &event.Event{}, Payload: []byte("{}"),
			CompleteTx: func(ctx context.Context, _ func(context.Context, pgx.Tx) (event.Outcome, error)) error {
				return cmp.Or(ctx.Err(), errors.New("RAISE"))
			},
		})
		var failure *Error
		if !errors.As(err, &failure) || failure.Class != ClassRetry || failure.Sick != tt.sick {
			t.Errorf("%s: %v, sick: %t", name, err, failure != nil && failure.Sick)
		}
	}
}
