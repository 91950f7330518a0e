package lease_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/sandbox"
)

var postgres sandbox.Suite

func TestMain(m *testing.M) { goleak.VerifyTestMain(postgres.Main(m)) }

// holder is a worker's lease, being renewed.
type holder struct {
	*lease.Lease
	ended    chan error
	giveBack context.CancelFunc
}

func hold(t *testing.T, databaseURL, clientID string) *holder {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	h := &holder{
		Lease: lease.New(lease.Options{DatabaseURL: databaseURL, ClientID: clientID, Version: "test", Logger: slog.New(slog.DiscardHandler)}),
		ended: make(chan error, 1), giveBack: cancel,
	}
	if err := h.Take(ctx); err != nil {
		t.Fatal(err)
	}
	go func() { h.ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-h.ended; err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *holder) end(t *testing.T) error {
	t.Helper()
	err := <-h.ended
	h.ended <- nil // for the cleanup
	return err
}

func connect(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

func query(t *testing.T, conn *pgx.Conn, sql string, args ...any) string {
	t.Helper()
	var s string
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

func TestLivesWhileItRenews(t *testing.T) {
	t.Parallel()
	url := postgres.Database(t)
	conn := connect(t, url)
	a, b := hold(t, url, "a"), hold(t, url, "b")
	if dead, err := a.Bury(t.Context(), conn); err != nil || dead != nil || a.MayBury() {
		t.Fatalf("buried %v (%v), having just come", dead, err)
	}
	// Somebody who has died: his row was renewed for the last time long ago.
	query(t, conn, `INSERT INTO weir.worker (client_id, hostname, pid, version, seen_at)
		VALUES ('gone', 'h', 1, 'v', now() - interval '7 s'), ('future', 'h', 2, 'v', now() + interval '1 h') RETURNING 'ok'`)
	await(t, "the right to bury", b.MayBury)
	dead, err := b.Bury(t.Context(), conn)
	if err != nil || len(dead) != 2 || dead[0].ClientID != "gone" || dead[1].ClientID != "future" {
		t.Fatalf("buried %v (%v), want gone and future", dead, err)
	}
	if got := query(t, conn, "SELECT string_agg(client_id, ' ' ORDER BY client_id) FROM weir.worker"); got != "a b" {
		t.Errorf("left are %s", got)
	}
	a.giveBack()
	if err := a.end(t); err != nil {
		t.Errorf("given back: %v", err)
	}
	if got := query(t, conn, "SELECT string_agg(client_id, ' ') FROM weir.worker"); got != "b" {
		t.Errorf("left are %s, want b alone", got)
	}
}

func TestLosesItsLease(t *testing.T) {
	t.Parallel()
	url := postgres.Database(t)
	conn := connect(t, url)
	h := hold(t, url, "a")
	if err := h.Check(); err != nil {
		t.Fatal(err)
	}
	query(t, conn, "DELETE FROM weir.worker RETURNING 'declared dead'")
	<-h.Lost()
	if err := h.end(t); !errors.Is(err, lease.ErrLost) {
		t.Errorf("ended with %v", err)
	}
	if err := h.Check(); !errors.Is(err, lease.ErrLost) || !errors.Is(err, context.Canceled) {
		t.Errorf("goes on as if nothing had happened: %v", err)
	}
}

// A lease that cannot be renewed is no longer relied on, and does not let others be buried; when the database is back it
// goes on, if nobody has declared the worker dead.
func TestOutlivesItsServer(t *testing.T) {
	t.Parallel()
	server, err := sandbox.StartPostgres(t.Context(), sandbox.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	h := hold(t, server.TestDatabase(t), "a")
	await(t, "the right to bury", h.MayBury)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, "doubt", func() bool { return h.Check() != nil && !h.MayBury() })
	if err := server.Restart(t.Context(), sandbox.Fast); err != nil {
		t.Fatal(err)
	}
	await(t, "renewal", func() bool { return h.Check() == nil })
	if h.MayBury() {
		t.Error("may bury others at once, who had no time to renew theirs")
	}
	await(t, "the right to bury again", h.MayBury)
}

// A server that restarts in no time ends every session all the same: who does not come back as quickly must not be buried.
func TestRestartIsABreak(t *testing.T) {
	t.Parallel()
	server, err := sandbox.StartPostgres(t.Context(), sandbox.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	url := server.TestDatabase(t)
	h := hold(t, url, "a")
	await(t, "the right to bury", h.MayBury)
	if err := server.Restart(t.Context(), sandbox.Fast); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, url)
	restarted := query(t, conn, "SELECT clock_timestamp()::text")
	await(t, "renewal", func() bool {
		return query(t, conn, "SELECT (seen_at > $1::text::timestamptz)::text FROM weir.worker", restarted) == "true"
	})
	if h.MayBury() {
		t.Error("may bury others at once, who had no time to renew theirs")
	}
}

// The clock may jump between a renewal and the look at the others: then nobody is dead by it.
func TestClockJumpsAfterTheRenewal(t *testing.T) {
	t.Parallel()
	conn := connect(t, postgres.Database(t))
	query(t, conn, `INSERT INTO weir.worker (client_id, hostname, pid, version, seen_at)
		VALUES ('alive', 'h', 1, 'v', now() - interval '1 h') RETURNING 'ok'`)
	for name, c := range map[string]struct {
		ago    time.Duration // what the database's clock said at the last renewal
		buried int
	}{"jumped": {time.Hour, 0}, "set back": {-time.Minute, 0}, "as it was": {0, 1}} {
		var now time.Time
		if err := conn.QueryRow(t.Context(), "SELECT clock_timestamp()").Scan(&now); err != nil {
			t.Fatal(err)
		}
		l := lease.New(lease.Options{ClientID: "me", Logger: slog.New(slog.DiscardHandler)})
		for i := range 4 {
			l.Saw(now.Add(-c.ago).Add(time.Duration(i-3) * 2 * time.Second))
		}
		if !l.MayBury() {
			t.Fatalf("%s: may not bury", name)
		}
		err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			dead, err := l.Bury(t.Context(), tx)
			if err == nil && len(dead) != c.buried {
				t.Errorf("%s: buried %v", name, dead)
			}
			return errors.Join(err, errRollback)
		})
		if !errors.Is(err, errRollback) {
			t.Fatal(err)
		}
	}
}

var errRollback = errors.New("rolled back")

// A clock that jumps lets every lease run out. It is no reason to bury anybody.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	l := lease.New(lease.Options{Logger: slog.New(slog.DiscardHandler)})
	at := time.Now()
	for range 4 {
		l.Saw(at)
		at = at.Add(2 * time.Second)
	}
	if !l.MayBury() {
		t.Fatal("may not bury after 6 s")
	}
	for _, jump := range []time.Duration{time.Minute, -time.Minute} {
		at = at.Add(jump)
		l.Saw(at)
		if l.MayBury() {
			t.Errorf("may bury after a jump of %s", jump)
		}
		for range 3 {
			at = at.Add(2 * time.Second)
			l.Saw(at)
		}
		if !l.MayBury() {
			t.Errorf("may not bury 6 s after a jump of %s", jump)
		}
	}
}

// A database that stands still keeps everybody from renewing: who was last to do so learns nothing from it about the others.
func TestOutlives(t *testing.T) {
	t.Parallel()
	l := lease.New(lease.Options{Logger: slog.New(slog.DiscardHandler)})
	at := time.Now()
	for i := range 4 {
		l.Saw(at.Add(time.Duration(i-3) * 2 * time.Second))
	}
	for ago, want := range map[time.Duration]bool{
		0: false, 2 * time.Second: false, 2900 * time.Millisecond: false, 3 * time.Second: true, time.Minute: true,
	} {
		if got := l.Outlives(at.Add(-ago)); got != want {
			t.Errorf("of one who was there %s before its own last renewal: %t", ago, got)
		}
	}
	if lease.New(lease.Options{Logger: slog.New(slog.DiscardHandler)}).Outlives(at.Add(-time.Minute)) {
		t.Error("one that has yet to see the database")
	}
}

func TestSaysWhichConfiguration(t *testing.T) {
	t.Parallel()
	url := postgres.Database(t)
	conn := connect(t, url)
	h := hold(t, url, "a")
	h.SetConfig(time.Now(), "weir.yaml:3:5: unknown key")
	await(t, "the text", func() bool {
		return query(t, conn, "SELECT config_error FROM weir.worker") == "weir.yaml:3:5: unknown key"
	})
	h.SetConfig(time.Now(), "open b\x00.tmpl: \xff\n"+strings.Repeat("x", 5000))
	await(t, "what can be stored of a text", func() bool {
		return strings.HasPrefix(query(t, conn, "SELECT config_error FROM weir.worker"), "open b .tmpl: \uFFFD xxx")
	})
	if err := h.Check(); err != nil {
		t.Error(err)
	}
}
