package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

func testCache(t *testing.T) *cache {
	t.Helper()
	as, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	return &cache{temp: t.TempDir(), dir: t.TempDir(), as: as}
}

func TestFoldersOfTheDeadAreRemoved(t *testing.T) {
	t.Parallel()
	c := testCache(t)
	dead, lock, err := c.runFolder("postgres")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dead, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil { // as the kernel does when the owner dies
		t.Fatal(err)
	}
	living, lock, err := c.runFolder("postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	_, third, err := c.runFolder("postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("the dead server's folder: %v, want none", err)
	}
	if _, err := os.Stat(living); err != nil {
		t.Errorf("the living server's folder: %v", err)
	}
}

// Not parallel: it sets the environment.
func TestForeignCacheIsRefused(t *testing.T) {
	as, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	as.drop = false // the folders of this test are closed to others
	t.Setenv("TMPDIR", t.TempDir())
	c, err := openCache(as)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openCache(as); err != nil {
		t.Fatalf("the second time: %v", err)
	}
	if err := os.Chmod(c.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := openCache(as); err == nil {
		t.Error("a folder that everybody can write to was trusted")
	}
}
