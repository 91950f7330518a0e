package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
)

// wanted is a delivery that there must be.
type wanted struct {
	id               uuid.UUID
	observer, action string
	path             string // of the receiver; "": a database action
	row              *logRow
	data             document // of the event
	poison           bool     // the receiver refuses it for good
}

// key is the one of dedup:.
func (w *wanted) key() string { return fmt.Sprintf("%s:%d", *w.row.Entity, w.data.Group) }

func (w *wanted) String() string {
	return fmt.Sprintf("delivery %s of %s/%s for %s", w.id, w.observer, w.action, w.row)
}

// String is everything about a row.
func (r *logRow) String() string {
	return fmt.Sprintf("row %d (id %s, tx %s): %s %s %s, data %s, before %s",
		r.PK, r.ID, r.Tx, r.Verb, r.Kind, text(r.Entity), text(r.Data), text(r.Before))
}

func text(s *string) string {
	if s == nil {
		return "null"
	}
	return *s
}

// eventType is what becomes of a row; "" when no event can be made of it.
func (r *logRow) eventType() string {
	verb := strings.ToUpper(r.Verb)
	switch verb {
	case "INSERT", "UPDATE", "DELETE":
		if r.Entity == nil {
			return ""
		}
		return verb
	case "CUSTOM", "NOOP", "READ":
		return "CUSTOM"
	}
	return ""
}

// image is the event's data: the text of the row, every digit of it, without the spaces between.
func (r *logRow) image() string {
	of := r.Data
	if r.eventType() == "DELETE" {
		of = r.Before
	}
	var compact bytes.Buffer
	if of == nil || json.Compact(&compact, []byte(*of)) != nil {
		return "{}"
	}
	return compact.String()
}

// read decodes the images.
func (r *logRow) read() error {
	for from, to := range map[*string]*document{r.Data: &r.after, r.Before: &r.before} {
		if from == nil {
			continue
		}
		if err := json.Unmarshal([]byte(*from), to); err != nil {
			return fmt.Errorf("%s: %w", r, err)
		}
	}
	return nil
}

// deliveries are those that the observers of settings must lead to. It repeats in Go what weir.yaml says, on purpose.
func (r *logRow) deliveries() []*wanted {
	typ, data := r.eventType(), r.after
	if typ == "DELETE" {
		data = r.before
	}
	var all []*wanted
	want := func(observer, action, path string) {
		all = append(all, &wanted{
			id: event.DeliveryID(r.ID, r.PK, observer, action), observer: observer, action: action, path: path, row: r, data: data,
			poison: data.Poison && path == "/plain",
		})
	}
	if typ == "" {
		return nil
	}
	switch r.Kind {
	case "Order":
		want("plain", "hook", "/plain")
		total, err := data.Total.Float64()
		if (typ == "INSERT" || typ == "UPDATE") && err == nil && total >= 500 {
			want("booked", "book", "")
		}
	case "Customer":
		want("ordered", "hook", "/ordered")
		if typ == "UPDATE" && data.Status == "shipped" && r.before.Status != "shipped" {
			want("changed", "hook", "/changed")
			want("changed", "book", "")
		}
	case "Item":
		if typ != "CUSTOM" {
			want("deduped", "hook", "/deduped")
		}
	}
	return all
}
