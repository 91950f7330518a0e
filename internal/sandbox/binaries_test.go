package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/sandbox"
)

// offline is the environment of a helper whose downloads are refused and whose cache is empty, with the programs of
// the folder bin first on PATH.
func offline(t *testing.T, bin string, more ...string) []string {
	t.Helper()
	temp, err := os.MkdirTemp("", "weir-offline-") //nolint:usetesting // t.TempDir is closed to the server's account
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	if err := os.Chmod(temp, 0o777); err != nil {
		t.Fatal(err)
	}
	return append(more, "TMPDIR="+temp, "XDG_CACHE_HOME="+temp, "HOME="+temp, "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=",
		"PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func TestInstalledWhereDownloadIsRefused(t *testing.T) {
	t.Parallel()
	private := startOwn(t, sandbox.PostgresOptions{}) // its programs are an installation like any other
	bin := query(t, connect(t, private.URL("postgres")), "SELECT setting FROM pg_config WHERE name = 'BINDIR'")
	_, databaseURL := runHelper(t, "server", offline(t, bin)...)
	if strings.HasPrefix(databaseURL, "error") {
		t.Fatal(databaseURL)
	}
	connect(t, databaseURL)
}

func TestNoServerToBeHad(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	refuse := []byte("#!/bin/sh\necho apt-get: no network\nexit 100\n")
	if err := os.WriteFile(filepath.Join(bin, "apt-get"), refuse, 0o755); err != nil {
		t.Fatal(err)
	}
	_, message := runHelper(t, "server", offline(t, bin, sandbox.VersionVariable+"=99.1")...)
	for _, want := range []string{"download PostgreSQL 99.1: unable to connect", "99", "DATABASE_URL"} {
		if !strings.Contains(message, want) {
			t.Errorf("%s\nlacks %q", message, want)
		}
	}
}
