package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/sandbox"
)

// scriptVariable names the file that tells the role "pour" what happens in each of its calls, a line each.
const scriptVariable = "WEIR_BENCH_SCRIPT"

// pourAgain plays a benchmark: it takes the first line from its script, and fails, keeps silent or prints that figure.
func pourAgain(context.Context, []string) error {
	path := os.Getenv(scriptVariable)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	line, rest, _ := strings.Cut(string(text), "\n")
	if err := os.WriteFile(path, []byte(rest), 0o600); err != nil {
		return err
	}
	switch line {
	case "":
		return errors.New("called too often")
	case "fail":
		fmt.Println("--- FAIL: BenchmarkPour\n    pour_test.go:1: the jug broke")
		return errors.New("exit")
	case "silence":
		fmt.Println("PASS")
		return nil
	}
	fmt.Printf("BenchmarkPour/by=weir-2 1 %s rows/s\nBenchmarkPour/by=funnel-2 1 100 rows/s\nPASS\n", line)
	return nil
}

// kitchen is a folder in which benchmarks run that are played.
type kitchen struct {
	t *testing.T
	o Options
}

func newKitchen(t *testing.T) kitchen {
	t.Helper()
	t.Chdir("../..") // where Run is called
	dir := t.TempDir()
	t.Setenv(roleVariable, "pour")
	t.Setenv(scriptVariable, filepath.Join(dir, "script"))
	k := kitchen{t, Options{Folder: filepath.Join(dir, "results"), Report: filepath.Join(dir, "performance.md"), Out: &sandbox.Output{}}}
	k.write(k.o.Report, fmt.Sprintf(beginMark, overview)+endMark)
	return k
}

func (k kitchen) write(path, text string) {
	k.t.Helper()
	check(k.t, os.WriteFile(path, []byte(text), 0o600))
}

// pours runs the row three times, of which each call does what its line says.
func (k kitchen) pours(code string, lines ...string) error {
	k.t.Helper()
	k.write(os.Getenv(scriptVariable), strings.Join(lines, "\n"))
	row := pour()
	row.Runs = 3
	return k.o.run(k.t.Context(), []Row{row}, os.Args[0], code)
}

// kept compares Weir's figures in the file of results.
func (k kitchen) kept(want ...float64) {
	k.t.Helper()
	found, err := readResults(filepath.Join(k.o.Folder, "pour.txt"))
	check(k.t, err)
	if got := found.values["Pour/by=weir"]["rows/s"]; !slices.Equal(got, want) {
		k.t.Errorf("there are %v, want %v", got, want)
	}
}

// fails wants such an error.
func (k kitchen) fails(err error, says string) {
	k.t.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		k.t.Errorf("got %v, want %s", err, says)
	}
}

func TestRunMeasuresAndReports(t *testing.T) {
	k := newKitchen(t)
	check(t, k.pours("code", "70", "80", "90"))
	k.kept(70, 80, 90)
	for _, want := range []string{"pour: run 3 of 3 took", "| – | rows/s | 80 | funnel | 100 | **0.8** | 0.700 to 0.900 (75 %) |"} {
		if out := fmt.Sprint(k.o.Out); !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if text, err := os.ReadFile(k.o.Report); err != nil || !strings.Contains(string(text), "not measured") {
		t.Errorf("the report: %v\n%s", err, text)
	}
	check(t, k.pours("code", "71", "81", "91")) // one that is complete is followed by another
	k.kept(71, 81, 91)
}

func TestRunThatWasBrokenOffGoesOn(t *testing.T) {
	k := newKitchen(t)
	err := k.pours("code", "70", "80", "fail")
	k.fails(err, "pour: exit status 1")
	k.fails(err, "the jug broke")
	k.kept(70, 80)
	k.fails(k.pours("code", "silence"), "BenchmarkPour has printed no results:\nPASS")
	k.kept(70, 80)
	check(t, k.pours("code", "90"))
	k.kept(70, 80, 90)
}

func TestAnotherBuildBeginsAnew(t *testing.T) {
	k := newKitchen(t)
	k.fails(k.pours("code", "70", "80", "fail"), "exit status 1")
	check(t, k.pours("better code", "71", "81", "91"))
	k.kept(71, 81, 91)
}

func TestOtherOptionsBeginAnew(t *testing.T) {
	k := newKitchen(t)
	k.fails(k.pours("code", "70", "fail"), "exit status 1")
	k.o.Full = true
	check(t, k.pours("code", "71", "81", "91"))
	k.kept(71, 81, 91)
}

func TestUnknownRowMeasuresNothing(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "results")
	err := Run(t.Context(), Options{Only: "pouring", Folder: folder})
	if err == nil || !strings.Contains(err.Error(), `there is no row "pouring"`) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(folder); err == nil {
		t.Error("there is a folder of results")
	}
}
