package action

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/uuid"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

var env = map[string]string{
	"ERP_SECRET":     "new-secret",
	"ERP_SECRET_OLD": "old-secret",
	"ERP_WHSEC":      "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
	"BAD_WHSEC":      "whsec_***hunter2***",
	"BAD_URL":        "ftp://hunter2/hunter2",
	"SHORT_URL":      "https://hooks.example.org/T000/hunter2-token",
}

func withEnv(vars map[string]string) context.Context {
	return setting.NewContext(context.Background(), setting.Surroundings{
		Lookup: func(name string) (string, bool) { v, ok := vars[name]; return v, ok },
	})
}

func decode(text string) (Config, error) { return decodeIn(withEnv(env), text) }

func decodeIn(ctx context.Context, text string) (c Config, err error) {
	err = yaml.NewDecoder(strings.NewReader(text), yaml.Strict()).DecodeContext(ctx, &c)
	return c, err
}

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

func mustDecode(t *testing.T, text string) Config {
	t.Helper()
	c, err := decode(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// client reaches loopback addresses and nothing else.
func client(t *testing.T, allow ...string) *outbound.Client {
	t.Helper()
	var cfg outbound.Config
	for _, s := range allow {
		target, err := outbound.ParseTarget(s)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Allow = append(cfg.Allow, target)
	}
	c := outbound.New(cfg)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func bind(t *testing.T, text string) Action {
	t.Helper()
	return mustDecode(t, text).Bind(Deps{HTTP: client(t, "127.0.0.0/8"), Logger: slog.New(slog.DiscardHandler)})
}

// received is a request as the receiver saw it.
type received struct {
	method, uri, host string
	header            http.Header
	body              []byte
}

// receiver answers with the handler, or 200, and keeps what it got.
func receiver(t *testing.T, answer http.HandlerFunc) (string, <-chan received) {
	t.Helper()
	got := make(chan received, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- received{r.Method, r.RequestURI, r.Host, r.Header, body}
		if answer != nil {
			answer(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, got
}

var order = event.Event{
	ID:           uuid.MustParse("0193c0de-0000-7000-8000-000000000001"),
	PK:           42,
	Type:         event.Update,
	EntityType:   "Order",
	EntityID:     "0193c0de-0000-7000-8000-000000000002",
	Data:         json.RawMessage(`{"total":100.10,"big":9007199254740993123,"status":"shipped","note":"a \"b\"\r\nX: {{ total }} <&>","slash":"a/b?c=d#e"}`),
	Timestamp:    event.Time(time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)),
	CommitTime:   event.Time(time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)),
	LSN:          0x16_B374D848,
	TraceContext: json.RawMessage(`{"version":"00","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","parent_id":"00f067aa0ba902b7","trace_flags":"01","tracestate":"a=b"}`),
}

func callFor(t *testing.T, e event.Event) Call {
	t.Helper()
	payload, err := e.JSON()
	if err != nil {
		t.Fatal(err)
	}
	d := event.Delivery{Observer: "order-shipped", Action: "notify", Event: &e}
	return Call{
		Event: &e, Payload: payload, Env: rule.NewEnv(&e), Observer: d.Observer, Action: d.Action,
		DeliveryID: d.ID(), Attempt: 1,
	}
}

func wantError(t *testing.T, err error, class Class, code string) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an *Error", err)
	}
	if e.Class != class || e.Code != code {
		t.Errorf("got %s %s (%v), want %s %s", e.Class, e.Code, e, class, code)
	}
	return e
}

func TestErrorTextIsShortAndOneLine(t *testing.T) {
	t.Parallel()
	for _, text := range []string{strings.Repeat("x", 1000), strings.Repeat("€", 1000), "a\nb\x00c\r\nd\xff", ""} {
		got := Final("code", errors.New(text)).Error()
		if len(got) > maxText || strings.ContainsAny(got, "\r\n\x00") || strings.ToValidUTF8(got, "") != got {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := mustDecode(t, `{type: log, name: audit, level: warn, message_template: "shipped {{ total }} {{ note }}"}`)
	call := callFor(t, order)
	call.Attempt = 3
	if _, err := c.Bind(Deps{Logger: logger}).Do(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(buf.String(), "\n"); n != 1 {
		t.Errorf("%d lines", n)
	}
	var line map[string]any
	if err := json.Unmarshal(buf.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	delete(line, "time")
	want := map[string]any{
		"level": "WARN", "msg": "shipped 100.10 a \"b\"\r\nX: {{ total }} <&>", "delivery_id": call.DeliveryID.String(),
		"observer": "order-shipped", "action": "notify", "attempt": 3.0, "event_id": order.ID.String(),
		"entity_type": "Order", "entity_id": order.EntityID, "event_type": "UPDATE", "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
	}
	for key, v := range want {
		if line[key] != v {
			t.Errorf("%s is %v, want %v", key, line[key], v)
		}
		delete(line, key)
	}
	if len(line) > 0 {
		t.Errorf("more than expected: %v", line)
	}
}

func TestLogLevels(t *testing.T) {
	t.Parallel()
	for level, want := range map[string]string{"debug": "DEBUG", "info": "INFO", "warn": "WARN", "error": "ERROR", "": "INFO"} {
		var buf bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))
		text := "{type: log, level: " + level + "}"
		if level == "" {
			text = "{type: log}"
		}
		if _, err := mustDecode(t, text).Bind(Deps{Logger: logger}).Do(t.Context(), callFor(t, order)); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(buf.String(), "level="+want+" msg=event ") {
			t.Errorf("%q wrote %s", level, buf.String())
		}
	}
}

func TestLogTemplateFails(t *testing.T) {
	t.Parallel()
	_, err := bind(t, `{type: log, message_template: "{{ totl }}"}`).Do(t.Context(), callFor(t, order))
	_ = wantError(t, err, ClassFinal, "template")
}
