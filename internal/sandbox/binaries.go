package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const (
	// DefaultPostgresVersion is downloaded when neither PostgresOptions nor the environment name another one.
	// Tried: 14.18, 15.13, 16.9, 17.5 and 18.3.
	DefaultPostgresVersion = "17.5"
	// VersionVariable is the environment variable that selects another version, for the CI matrix.
	VersionVariable = "WEIR_POSTGRES_VERSION"

	oldestMajor = 14
)

// binaries finds postgres and initdb of one version for an account.
type binaries struct {
	cache    *cache
	version  string // "17.5"
	chosen   bool   // by the caller or the environment: another major version will not do
	progress func(string)
}

func newBinaries(c *cache, o PostgresOptions) (binaries, error) {
	wanted := cmp.Or(o.Version, os.Getenv(VersionVariable))
	b := binaries{cache: c, version: cmp.Or(wanted, DefaultPostgresVersion), chosen: wanted != "", progress: o.Progress}
	if !regexp.MustCompile(`^\d+\.\d+$`).MatchString(b.version) {
		return b, fmt.Errorf("PostgreSQL version %q: want major and minor as in %s", b.version, DefaultPostgresVersion)
	}
	return b, nil
}

// find returns the folder with the programs. Must be called with the cache's lock held.
func (b binaries) find(ctx context.Context) (string, error) {
	home := filepath.Join(b.cache.dir, "postgres-"+b.version)
	bin := filepath.Join(home, "bin")
	if _, err := os.Stat(filepath.Join(bin, "postgres")); err == nil {
		return bin, nil
	}
	b.progress("downloading PostgreSQL " + b.version + " (about 14 MB, once)")
	refused := b.fetch(ctx, home)
	if refused == nil {
		return bin, nil
	}
	refused = fmt.Errorf("download PostgreSQL %s: %w", b.version, refused)
	b.progress(refused.Error() + "; looking for an installed one")
	bin, ok := b.installed(ctx)
	if !ok {
		refused = errors.Join(refused, b.aptInstall(ctx))
		bin, ok = b.installed(ctx)
	}
	if !ok {
		return "", fmt.Errorf("%w\nno installed PostgreSQL will do either: install %s, put its bin folder on PATH, "+
			"or name a server in %s", refused, b.acceptable(), DatabaseURLVariable)
	}
	b.progress("using the installed " + bin)
	return bin, nil
}

// fetch downloads and extracts into home, all or nothing. The library has no such function of its own: its Start
// does both and then prepares the data folder. It is given one that os.RemoveAll documents to refuse (a path that
// ends in a dot), so that it comes back at this point, having started no program.
func (b binaries) fetch(ctx context.Context, home string) error {
	stage, err := os.MkdirTemp(b.cache.dir, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	// The library downloads with the default client, whose idle connection would look like a leak to a test.
	defer http.DefaultClient.CloseIdleConnections()
	port, err := unusedPort()
	if err != nil {
		return err
	}
	extracted := filepath.Join(stage, "postgres")
	err = embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(embeddedpostgres.PostgresVersion(b.version + ".0")).
		Port(port).
		CachePath(archiveFolder(stage)).
		BinariesPath(extracted).
		RuntimePath(filepath.Join(stage, "runtime")).
		DataPath(stage + "/.").
		Logger(io.Discard)).Start()
	if err == nil || !strings.HasPrefix(err.Error(), "unable to clean up data directory") {
		return cmp.Or(err, errors.New("embedded-postgres went on to start a server"))
	}
	if err := makeReadable(extracted); err != nil {
		return err
	}
	if _, err := majorVersion(ctx, filepath.Join(extracted, "bin")); err != nil {
		return fmt.Errorf("the downloaded program does not run here: %w", err)
	}
	return os.Rename(extracted, home)
}

// archiveFolder keeps the archive where it survives the loss of the temporary directory, if there is such a place.
func archiveFolder(otherwise string) string {
	if user, err := os.UserCacheDir(); err == nil {
		if dir := filepath.Join(user, "weir"); os.MkdirAll(dir, 0o755) == nil {
			return dir
		}
	}
	return otherwise
}

// makeReadable undoes a strict umask: the server's account has to read what we extracted.
func makeReadable(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// installed returns the newest acceptable PostgreSQL of the machine.
func (b binaries) installed(ctx context.Context) (string, bool) {
	best, bestMajor := "", 0
	for _, bin := range installedFolders() {
		major, err := majorVersion(ctx, bin)
		if err != nil || major < oldestMajor || major <= bestMajor {
			continue
		}
		if b.chosen && strconv.Itoa(major) != b.major() {
			continue
		}
		best, bestMajor = bin, major
	}
	return best, best != ""
}

func (b binaries) major() string {
	major, _, _ := strings.Cut(b.version, ".")
	return major
}

func (b binaries) acceptable() string {
	if b.chosen {
		return "PostgreSQL " + b.major()
	}
	return fmt.Sprintf("PostgreSQL %d or newer", oldestMajor)
}

// installedFolders lists where package managers put postgres and initdb. PATH comes first.
func installedFolders() []string {
	var bins []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			bins = append(bins, filepath.Dir(path))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", // Debian
		"/usr/pgsql-*/bin",          // Red Hat
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern) // errs only for a malformed pattern
		bins = append(bins, found...)
	}
	return bins
}

// majorVersion asks the folder's postgres, and sees that there is an initdb beside it.
func majorVersion(ctx context.Context, bin string) (int, error) {
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("%s/postgres --version: %w", bin, err)
	}
	var major int
	if _, err := fmt.Sscanf(string(out), "postgres (PostgreSQL) %d", &major); err != nil {
		return 0, fmt.Errorf("%s/postgres --version printed %q", bin, out)
	}
	return major, nil
}

// aptInstall installs Debian's PostgreSQL when we may: as root on a Debian with no acceptable one. Elsewhere it does
// nothing.
func (b binaries) aptInstall(ctx context.Context) error {
	debian, _ := filepath.Glob("/etc/debian_version") // errs only for a malformed pattern
	if len(debian) == 0 || os.Geteuid() != 0 {
		return nil
	}
	name := "postgresql"
	if b.chosen {
		name += "-" + b.major()
	}
	b.progress("apt-get install " + name)
	const script = `apt-get -qq update && apt-get -qq -y --no-install-recommends install "$1"`
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script, "apt", name)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get install %s: %w\n%s", name, err, out)
	}
	return nil
}

// unusedPort is a port that the library insists on, though nothing will listen there.
func unusedPort() (uint32, error) {
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint32(l.Addr().(*net.TCPAddr).Port), nil
}
