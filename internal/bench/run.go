package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

const (
	defaultRuns = 5
	// callTime is how long one call of a row may take.
	callTime = 60 * time.Minute
)

// Options are those of a run. It is called in the module's root.
type Options struct {
	Only    string // names of rows; "": all
	Runs    int    // of each row; 0: as the row says
	Full    bool   // the sizes that take long
	Peer    string // path of a program that is measured beside, where a row knows how
	Profile string // folder for profiles of the workers; "": none
	Folder  string // of the results
	Report  string // the document
	Out     io.Writer
}

// Run measures rows, keeps what they print, and writes the report. A run that was broken off, and is called again with the same
// options and code, goes on where it was.
func Run(ctx context.Context, o Options) error {
	rows, err := Find(o.Only)
	if err != nil {
		return err
	}
	if o.Profile != "" {
		if err := os.MkdirAll(o.Profile, 0o750); err != nil {
			return err
		}
	}
	scratch, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	binary := filepath.Join(scratch, "bench.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, "./internal/bench") //nolint:gosec // a path of ours
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the benchmarks: %w\n%s", err, out)
	}
	code, err := sum(ctx, binary)
	if err != nil {
		return err
	}
	return o.run(ctx, rows, binary, code)
}

// run has a binary of this code measure rows.
func (o Options) run(ctx context.Context, rows []Row, binary, code string) error {
	if err := os.MkdirAll(o.Folder, 0o750); err != nil {
		return err
	}
	underWay := filepath.Join(o.Folder, unfinished)
	id, err := begin(underWay, fmt.Sprintf("%s; rows %q, runs %d, full %t, peer %q, profile %q",
		code, o.Only, o.Runs, o.Full, o.Peer, o.Profile))
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := o.measure(ctx, row, binary, id); err != nil {
			return fmt.Errorf("%s: %w", row.Name, err)
		}
	}
	if err := os.Remove(underWay); err != nil {
		return err
	}
	return o.write()
}

// unfinished is a file beside the results: which run is under way.
const unfinished = "unfinished"

// begin returns the id of the run that is under way with these options, or of a new one.
func begin(path, options string) (id string, err error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if id, was, _ := strings.Cut(string(text), "\n"); was == options {
		return id, nil
	}
	id = time.Now().UTC().Format(time.RFC3339Nano)
	return id, os.WriteFile(path, []byte(id+"\n"+options), 0o600)
}

// sum tells builds apart.
func sum(ctx context.Context, binary string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "tool", "buildid", binary).Output() //nolint:gosec // what was just built
	if err != nil {
		return "", fmt.Errorf("read the build id: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

var oneRun = regexp.MustCompile(`(?m)^# run `)

// measure calls a row as often as it lacks runs.
func (o Options) measure(ctx context.Context, row Row, binary, id string) error {
	path := filepath.Join(o.Folder, row.Name+".txt")
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	first := "# begun: " + id + "\n"
	if !bytes.HasPrefix(text, []byte(first)) {
		text = []byte(first + "# measured: " + machine(ctx) + "\n")
	}
	runs := cmp.Or(o.Runs, row.Runs, defaultRuns)
	for done := len(oneRun.FindAllIndex(text, -1)); done < runs; done++ {
		began := time.Now()
		out, err := o.call(ctx, row, binary)
		if err != nil {
			return err
		}
		text = append(text, fmt.Sprintf("# run %d\n%s", done+1, out)...)
		if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // results are for everybody
			return err
		}
		fmt.Fprintf(o.Out, "%s: run %d of %d took %s\n", row.Name, done+1, runs, time.Since(began).Round(time.Second))
	}
	found, err := readResults(path)
	if err != nil {
		return err
	}
	section, err := row.section(found)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.Out, "\n%s\n", section)
	return err
}

// call runs a row's benchmark once.
func (o Options) call(ctx context.Context, row Row, binary string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.run", "^$", "-test.bench", "^"+row.Benchmark+"$", //nolint:gosec // our own
		"-test.benchtime", cmp.Or(row.Benchtime, "1x"), "-test.timeout", callTime.String())
	cmd.Dir = filepath.Join("internal", "bench")
	cmd.Env = os.Environ()
	if o.Full {
		cmd.Env = append(cmd.Env, fullVariable+"=1")
	}
	for variable, file := range map[string]string{peerVariable: o.Peer, profileVariable: o.Profile} {
		if file == "" {
			continue
		}
		whole, err := filepath.Abs(file)
		if err != nil {
			return nil, err
		}
		cmd.Env = append(cmd.Env, variable+"="+whole)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	if found, err := parseResults(string(out), row.Name); err != nil || len(found.names) == 0 {
		return nil, errors.Join(fmt.Errorf("%s has printed no results:\n%s", row.Benchmark, out), err)
	}
	return out, nil
}

// What the benchmarks are told by their environment.
const (
	fullVariable    = "WEIR_BENCH_FULL"    // "1": the sizes that take long
	peerVariable    = "WEIR_BENCH_PEER"    // another program to measure beside
	profileVariable = "WEIR_BENCH_PROFILE" // a folder for pprof's profiles of the workers
)

// write brings the report up to date.
func (o Options) write() error {
	document, err := os.ReadFile(o.Report)
	if err != nil {
		return err
	}
	text, err := Report(string(document), o.Folder)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Report, err)
	}
	return os.WriteFile(o.Report, []byte(text), 0o644) //nolint:gosec // a document is for everybody
}

// machine says where and when, and of what.
func machine(ctx context.Context) string {
	said := func(name string, args ...string) string {
		out, err := exec.CommandContext(ctx, name, args...).Output() //nolint:gosec // called below with constants
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	field := func(path, expr string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			return ""
		}
		if m := regexp.MustCompile(expr).FindSubmatch(text); m != nil {
			return string(m[1])
		}
		return ""
	}
	described := []string{
		time.Now().UTC().Format(time.DateOnly),
		"on " + cmp.Or(field("/proc/cpuinfo", `model name\s*: (.*)`), runtime.GOARCH),
		fmt.Sprintf("%d processors", runtime.NumCPU()),
		cmp.Or(field("/proc/meminfo", `MemTotal:\s+(\d+) kB`), "?") + " kB of memory",
		strings.TrimSpace(runtime.GOOS + " " + field("/proc/sys/kernel/osrelease", `(\S+)`)),
		runtime.Version(),
		"commit " + cmp.Or(said("git", "rev-parse", "--short", "HEAD"), "unknown"),
	}
	return strings.Join(described, ", ")
}
