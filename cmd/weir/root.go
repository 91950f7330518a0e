package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// newRoot is the command tree: to add a command is to add a line.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "weir",
		Short: "Turn committed PostgreSQL changes into reliable actions",
		Long: `weir is the command line for Weir: it prepares databases, checks the configuration, says how things stand,
and handles dead letters and circuit breakers. The worker is a program of its own: worker.

The database is --database-url, the configuration file's database.url, or $DATABASE_URL. The configuration file is
--config, $WEIR_CONFIG, ./weir.yaml or /etc/weir/weir.yaml; only validate-config needs its secrets.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 invalid configuration, 4 cannot connect, 5 gap in the stream.`,
		Args:          noArguments,
		SilenceErrors: true, // run says them
		SilenceUsage:  true, // the help is longer than the mistake
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.addGlobalFlags(root)
	root.AddCommand(
		newMigrateCommand(a),
		newDoctorCommand(a),
		newValidateCommand(a),
		newAdoptCommand(a),
		newAttachCommand(a),
		newDetachCommand(a),
		newAcceptGapCommand(a),
		newStatusCommand(a),
		newSearchCommand(a),
		newDebugCommand(a),
		newHistoryCommand(a),
		newTestCommand(a),
		newDeadLetterCommand(a),
		newReplayCommand(a),
		newBreakerCommand(a),
		newPauseCommand(a),
		newResumeCommand(a),
		newCacheCommand(a),
		newMetricsCommand(a),
		newDemoCommand(a),
		newVersionCommand(a),
	)
	fitHelp(root)
	a.completeNames(root)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp) // files are where they are said
	root.SetUsageTemplate(usageTemplate(root))
	return root
}

func (a *app) addGlobalFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&a.flags.config, "config", "", "configuration `file` (default: $WEIR_CONFIG, ./weir.yaml, /etc/weir/weir.yaml)")
	flags.StringVar(&a.flags.databaseURL, "database-url", "",
		"`URL` of the database (default: database.url of the configuration, $DATABASE_URL)")
	flags.Var(&a.flags.format, "format", "output as text, json or yaml")
	flags.BoolVarP(&a.flags.verbose, "verbose", "v", false, "say what is used and done")
	flags.BoolVar(&a.flags.noColor, "no-color", false, "no colors (also: NO_COLOR; there are none unless on a terminal)")
	complete := cobra.FixedCompletions(formats(), cobra.ShellCompDirectiveNoFileComp)
	if err := root.RegisterFlagCompletionFunc("format", complete); err != nil {
		panic(err) // the flag is a few lines above
	}
	if err := root.MarkPersistentFlagFilename("config", "yaml", "yml"); err != nil {
		panic(err) // so is this one
	}
}

// group is a command that only has commands of its own.
func group(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.ArbitraryArgs}
	names := make([]string, len(commands))
	for i, c := range commands {
		names[i] = c.Name()
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		choice := strings.Join(names, ", ")
		if len(args) == 0 {
			return fmt.Errorf("%s needs one of its commands: %s", cmd.CommandPath(), choice)
		}
		return fmt.Errorf("unknown command %q for %q: expected one of %s", args[0], cmd.CommandPath(), choice)
	}
	cmd.AddCommand(commands...)
	return cmd
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasParent() {
		return fmt.Errorf("%s takes no argument: %q is one too many", cmd.CommandPath(), args[0])
	}
	message := fmt.Sprintf("unknown command %q", args[0])
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		message += fmt.Sprintf(": did you mean %s?", strings.Join(like, " or "))
	}
	return fmt.Errorf("%s", message)
}
