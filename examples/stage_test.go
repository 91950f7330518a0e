package examples

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/sandbox"
)

// gate is held while pages are run: a port of this machine, as those that they name are, so that tests of other clones wait.
const gate = "127.0.0.1:9463"

// ports are those that pages name: the worker's, the receiver's.
var ports = []string{"127.0.0.1:9464", "127.0.0.1:8090"}

// stage is what a reader has: a PostgreSQL without databases, which psql's variables name, a Redis, and a clone.
type stage struct {
	postgres *sandbox.Postgres
	checkout string
	env      []string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	needs(t, "bash", "make", "curl", "psql", "createdb", "openssl")
	ctx := context.WithoutCancel(t.Context())
	listenAlone(t)
	postgres, err := sandbox.StartPostgres(ctx, sandbox.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	s := &stage{postgres: postgres, checkout: checkout(t)}
	bin := filepath.Join(s.checkout, "bin")
	config, err := pgx.ParseConfig(postgres.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	s.env = append(surroundings(),
		"PGHOST="+config.Host, "PGPORT="+strconv.Itoa(int(config.Port)), "PGUSER="+config.User, "PGSSLMODE=disable",
		"REDIS_URL="+sandbox.TestRedis(t).URL(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"),
	)
	build := exec.CommandContext(ctx, "bash", "-c", "make build && go build -buildvcs=false -o bin/ ./examples/receiver")
	build.Dir = s.checkout
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	return s
}

// surroundings is our environment without what would change what a reader without settings of his own sees.
func surroundings() []string {
	return append(slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "WEIR_") || strings.HasSuffix(name, "_URL") ||
			strings.HasSuffix(name, "_SECRET")
	}), "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
}

// needs are the programs that the pages use besides ours.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: install it, on Debian with apt-get install postgresql-client curl openssl (make test as root does so)", err)
		}
	}
}

// listenAlone waits until nobody else runs pages on this machine.
func listenAlone(t *testing.T) {
	t.Helper()
	for first := true; ; first = false {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", gate)
		if err == nil {
			t.Cleanup(func() { l.Close() })
			return
		}
		if first {
			t.Logf("waiting for the pages of somebody else: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// checkout is a clone of the repository as it is now. It is copied by this process: the test cache knows which files it read.
func checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == ".git" || name == "bin" {
			return fs.SkipDir
		}
		to := filepath.Join(dir, filepath.FromSlash(name))
		if entry.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		raw, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		return os.WriteFile(to, raw, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// clear takes away what the page before has left on the server, and looks whether the ports are free.
func (s *stage) clear(t *testing.T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.postgres.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	deadline := time.Now().Add(patience)
	for {
		err := errors.Join(dropAll(t.Context(), conn), areFree(t.Context()))
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v\nThe pages use these ports, as their readers do: stop what listens there", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func dropAll(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots`)
	if err != nil {
		return err // the walsender of a worker that was killed has not noticed yet
	}
	rows, err := conn.Query(ctx, `SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database
		WHERE NOT datistemplate AND datname <> 'postgres'`)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, statement := range statements {
		_, failed := conn.Exec(ctx, statement)
		err = errors.Join(err, failed)
	}
	return err
}

func areFree(ctx context.Context) error {
	var errs []error
	for _, port := range ports {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", port)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s is taken: %w", port, err))
			continue
		}
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
