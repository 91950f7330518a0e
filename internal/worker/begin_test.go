package worker

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/lease"
)

// A reload that comes while a life is being assembled is in force in it.
func TestReloadBetweenTwoLives(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "weir.yaml")
	load := func(observer string) *config.Config {
		text := "database: {url: \"postgres://localhost:1/none\"}\nobservers: {" + observer + ": {entity: Order, actions: [{type: log}]}}\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(t.Context(), config.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	w := New(load("old"), Options{Logger: slog.New(slog.DiscardHandler)})
	registry := prometheus.NewRegistry()
	l := &life{
		cfg: w.force.config(), opts: w.opts, log: w.log, clientID: newClientID(), registerer: registry, health: &w.health,
		remains: &w.remains,
	}
	l.lease = lease.New(lease.Options{DatabaseURL: l.cfg.Database.URL.Value(), ClientID: l.clientID, Logger: l.log})
	var undo cleanup
	defer func() {
		_ = undo.run()
		w.remains.Wait()
	}()
	if err := l.assemble(t.Context(), &undo); err != nil {
		t.Fatal(err)
	}
	if err := w.swap(load("new")); err != nil {
		t.Fatal(err)
	}
	if err := w.force.begin(l); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() == "observer" && label.GetValue() == "new" {
					return
				}
			}
		}
	}
	t.Error("the life knows nothing of the new observer")
}

// A life that has lost its lease before it had one waits for no database: another server may answer by now.
func TestALostLeaseEndsTheWait(t *testing.T) {
	t.Parallel()
	l := &life{log: slog.New(slog.DiscardHandler), health: &health{}}
	l.lease = lease.New(lease.Options{Logger: l.log})
	l.lease.Lose(errors.New("another server answers"))
	if err := l.awaitDatabase(t.Context()); !errors.Is(err, lease.ErrLost) {
		t.Errorf("got %v", err)
	}
}
