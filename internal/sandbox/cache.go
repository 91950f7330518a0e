package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// cache is the folder of this user that outlives a server: the binaries, and the lock that test processes which start
// at once take in turn.
type cache struct {
	temp string // the temporary directory
	dir  string // temp/weir-sandbox-<uid>
	as   account
}

// openCache makes the folder. A folder of that name which belongs to somebody else is refused: we run what is in it.
func openCache(as account) (*cache, error) {
	uid := os.Geteuid()
	c := &cache{temp: traversableTemp(as), as: as}
	c.dir = filepath.Join(c.temp, "weir-sandbox-"+strconv.Itoa(uid))
	if err := os.Mkdir(c.dir, 0o755); err == nil {
		return c, os.Chmod(c.dir, 0o755) // whatever the umask says
	} else if !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	info, err := os.Lstat(c.dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() || !ownedBy(info, uid) || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s is not a folder that only this user can write to: remove it", c.dir)
	}
	return c, nil
}

// traversableTemp is the temporary directory, or /tmp where root's own is closed to the server's account.
func traversableTemp(as account) string {
	temp := os.TempDir()
	for dir := temp; as.drop; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o001 == 0 {
			return "/tmp"
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return temp
}

// lock waits for the cache's lock; unlock by closing the file.
func (c *cache) lock(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		locked, err := tryLock(f)
		if locked {
			return f, nil
		}
		if err == nil {
			err = pause(ctx, 50*time.Millisecond)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("wait for %s: %w", f.Name(), err), f.Close())
		}
	}
}

// runFolder makes a folder for one server of that name, owned by the server's account, and removes those of dead owners. The
// folder's lock file stays open, and locked, as long as its owner lives. The cache's lock must be held: between the
// folder's creation and its lock it looks abandoned.
func (c *cache) runFolder(server string) (dir string, alive *os.File, err error) {
	prefix := "weir-" + server + "-" + strconv.Itoa(os.Geteuid()) + "-"
	if err := c.sweep(prefix); err != nil {
		return "", nil, fmt.Errorf("remove folders of dead servers: %w", err)
	}
	if dir, err = os.MkdirTemp(c.temp, prefix); err != nil {
		return "", nil, err
	}
	alive, err = os.OpenFile(filepath.Join(dir, "owner.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		_, err = tryLock(alive)
	}
	if err == nil {
		err = c.as.own(dir)
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, alive, nil
}

func (c *cache) sweep(prefix string) error {
	dirs, err := filepath.Glob(filepath.Join(c.temp, prefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() || !ownedBy(info, c.as.uid) {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, "owner.lock"), os.O_RDWR, 0)
		if err == nil {
			free, err := tryLock(f)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			if !free {
				continue
			}
		}
		// Its watchdog may be removing it at the same time; what either leaves the next start takes.
		_ = os.RemoveAll(dir)
	}
	return nil
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
