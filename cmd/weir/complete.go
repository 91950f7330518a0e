package main

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/config"
)

// names finds names in a configuration, for the shell. It needs no database.
type names func(*config.Config) []string

// completeNames has the shell complete the values of flags from the configuration, wherever a command below has such a flag.
func (a *app) completeNames(cmd *cobra.Command) {
	for flag, find := range map[string]names{
		"observer": observerNames, "action": actionNames, "entity": entityNames, "endpoint": endpointNames,
	} {
		if _, done := cmd.GetFlagCompletionFunc(flag); done || cmd.Flags().Lookup(flag) == nil {
			continue
		}
		if err := cmd.RegisterFlagCompletionFunc(flag, a.completion(find)); err != nil {
			panic(err) // the flag was looked up
		}
	}
	for _, one := range cmd.Commands() {
		a.completeNames(one)
	}
}

// completion offers names; nothing where there is no configuration that can be read.
func (a *app) completion(find names) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		cfg, err := a.incomplete(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return find(cfg), cobra.ShellCompDirectiveNoFileComp
	}
}

// firstArgument is completion for the first argument alone.
func (a *app) firstArgument(find names) cobra.CompletionFunc {
	complete := a.completion(find)
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, begun)
	}
}

func observerNames(cfg *config.Config) []string { return slices.Sorted(maps.Keys(cfg.Observers)) }

func actionNames(cfg *config.Config) []string {
	found := map[string]bool{}
	for _, o := range cfg.Observers {
		for _, one := range o.Actions {
			found[one.Name()] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func entityNames(cfg *config.Config) []string {
	found := map[string]bool{}
	for _, o := range cfg.Observers {
		found[o.Entity] = true
	}
	delete(found, "*")
	return slices.Sorted(maps.Keys(found))
}

// endpointNames are those that the observers' actions go to, as far as they do not depend on the environment.
func endpointNames(cfg *config.Config) []string {
	found := map[string]bool{}
	for name := range cfg.Endpoints {
		found[name] = true
	}
	if set, err := compileObservers(cfg.Observers); err == nil {
		for _, name := range set.Endpoints() {
			found[name] = true
		}
	}
	delete(found, "") // that of one whose URL only the environment knows
	return slices.Sorted(maps.Keys(found))
}
