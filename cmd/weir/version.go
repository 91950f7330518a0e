package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/db/migrations"
)

// versionReport is the output of version.
type versionReport struct {
	Version string `json:"version"`        // of this program
	Commit  string `json:"commit"`         // that it was built from, "" where the build did not say
	Schema  int64  `json:"schema_version"` // of schema weir, that it was built for
	Go      string `json:"go"`             // the version of Go that built it
	OS      string `json:"os"`             // as Go names it: linux
	Arch    string `json:"arch"`           // as Go names it: amd64
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArguments,
		RunE: a.does(func(context.Context, []string) error {
			v := versionReport{
				Version: version, Commit: cmp.Or(commit, recorded("vcs.revision")), Schema: migrations.Version,
				Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
			}
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "weir %s, schema version %d, %s, %s/%s\n", v.Version, v.Schema, v.Go, v.OS, v.Arch)
			})
		}),
	}
}

// recorded is what Go itself noted about the build; a build by `go install` has no flags of ours.
func recorded(key string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, setting := range info.Settings {
		if setting.Key == key {
			return setting.Value
		}
	}
	return ""
}
