package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/ops"
)

func newDoctorCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check whether the databases are set up for a worker",
		Long: `Look at both databases as the roles that the configuration names, and say with each finding what mends it. Nothing is
changed. The exit code is 1 if a finding would keep a worker from its work, 5 if there is a gap in the stream.`,
		Args: noArguments,
		RunE: a.does(a.doctor),
	}
}

func (a *app) doctor(ctx context.Context, _ []string) error {
	a.unprepared = true
	return a.withBoth(ctx, func(s *settings, conn, source *pgx.Conn) error {
		d, err := ops.Doctor(ctx, conn, source, s.capture, s.name)
		if err != nil {
			return err
		}
		if s.mistakes == nil && s.file != nil && s.file.Redis != nil {
			r := openRedis(s)
			d.Findings = append(d.Findings, ops.DoctorRedis(ctx, conn, r, s.name))
			if err := r.Close(); err != nil {
				return err
			}
		}
		if s.mistakes == nil && s.file != nil && s.file.Elasticsearch != nil {
			finding, err := doctorElasticsearch(ctx, s)
			if err != nil {
				return err
			}
			d.Findings = append(d.Findings, finding)
		}
		if s.mistakes != nil {
			mend := "weir validate-config"
			if a.flags.config != "" {
				mend += " " + a.flags.config
			}
			d.Healthy = false
			d.Findings = slices.Insert(d.Findings, 0, ops.Finding{
				Check: "configuration", Level: ops.LevelError, Problem: s.path + " has mistakes: a worker would not start with it",
				Mend: mend,
			})
		}
		if err := a.print(d, func(w io.Writer) { a.writeDiagnosis(w, d) }); err != nil {
			return err
		}
		switch {
		case d.Gap:
			return errGap
		case !d.Healthy:
			return errSaid
		}
		return nil
	})
}

func doctorElasticsearch(ctx context.Context, s *settings) (ops.Finding, error) {
	e, err := openElasticsearch(s)
	if err != nil {
		return ops.Finding{}, err
	}
	return ops.DoctorElasticsearch(ctx, e), e.Close()
}

func (a *app) writeDiagnosis(w io.Writer, d *ops.Diagnosis) {
	marks := map[ops.Level]cell{
		ops.LevelOK: {"ok", green}, ops.LevelWarning: {"warning", yellow}, ops.LevelError: {"ERROR", red},
	}
	var t table
	counts := map[ops.Level]int{}
	for _, f := range d.Findings {
		counts[f.Level]++
		t.add(marks[f.Level], c(f.Check), c(oneLine(f.Problem)))
		lead := "  to mend it: "
		for line := range strings.Lines(strings.TrimPrefix(f.Mend, "-- ")) {
			t.add(cell{lead + strings.TrimRight(line, "\n"), quoted})
			lead = strings.Repeat(" ", len(lead))
		}
	}
	t.write(a, w)
	switch errors, warnings := counts[ops.LevelError], counts[ops.LevelWarning]; {
	case errors > 0:
		fmt.Fprintf(w, "\n%s, %s: a worker would not work\n", count(errors, "error"), count(warnings, "warning"))
	case warnings > 0:
		fmt.Fprintf(w, "\n%s: a worker works all the same\n", count(warnings, "warning"))
	default:
		fmt.Fprintln(w, "\nnothing to mend")
	}
}
