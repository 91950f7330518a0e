package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/config"
)

func newValidateCommand(a *app) *cobra.Command {
	var noEnv bool
	cmd := &cobra.Command{
		Use:   "validate-config [FILE]",
		Short: "Check a configuration file",
		Long: `Check a configuration file as strictly as the worker does: every error with file, line, column, the offending line
and what was expected. The exit code is 3 if there is one.`,
		Example: "  weir validate-config weir.yaml --no-env",
		Args:    cobra.MaximumNArgs(1),
		RunE:    a.does(func(ctx context.Context, args []string) error { return a.validate(ctx, args, noEnv) }),

		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	cmd.Flags().BoolVar(&noEnv, "no-env", false, "check all but what only the environment knows: secrets and ${NAME}")
	return cmd
}

// validation is the output of validate-config.
type validation struct {
	File     string           `json:"file"`     // that was checked
	Valid    bool             `json:"valid"`    // there are no errors
	Errors   config.Errors    `json:"errors"`   // in the order of the file
	Warnings []config.Warning `json:"warnings"` // a worker starts all the same
}

func (a *app) validate(ctx context.Context, args []string, noEnv bool) error {
	explicit := a.flags.config
	if len(args) == 1 {
		if explicit != "" {
			return wrongUse("both an argument and --config name a file: use one of them")
		}
		explicit = args[0]
	}
	path, err := config.Find(explicit, a.lookup)
	if err != nil {
		return configError{err}
	}
	result := validation{File: path, Errors: config.Errors{}, Warnings: []config.Warning{}}
	cfg, err := config.Load(ctx, config.Options{Path: path, Lookup: a.lookup, NoEnv: noEnv})
	switch {
	case errors.As(err, &result.Errors):
	case err != nil:
		return configError{err}
	default:
		result.Valid = true
		result.Warnings = append(result.Warnings, cfg.Warnings...)
	}
	if err := a.print(result, func(w io.Writer) { a.writeValidation(w, result, cfg) }); err != nil {
		return err
	}
	if !result.Valid {
		return configError{errSaid}
	}
	return nil
}

func (a *app) writeValidation(w io.Writer, v validation, cfg *config.Config) {
	for _, e := range v.Errors {
		_, _ = fmt.Fprintln(a.stderr, e.Error())
	}
	for _, warning := range v.Warnings {
		_, _ = fmt.Fprintf(a.stderr, "warning: %s\n", warning)
	}
	if !v.Valid {
		a.notef("%s: %s", v.File, a.paint(red, count(len(v.Errors), "error")))
		return
	}
	actions := 0
	for _, o := range cfg.Observers {
		actions += len(o.Actions)
	}
	fmt.Fprintf(w, "%s: valid, %s, %s\n", v.File, count(len(cfg.Observers), "observer"), count(actions, "action"))
}
