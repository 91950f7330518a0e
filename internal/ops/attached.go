package ops

import (
	"context"
	"fmt"
	"strings"

	"github.com/fraiseql/weir/internal/capture"
)

// attached lists the tables that have capture triggers, and says which of these do not do what weir attach made them for.
func (c *checkup) attached(ctx context.Context) error {
	const check = "attached tables"
	tables, err := capture.AttachedTables(ctx, c.source)
	if err != nil || len(tables) == 0 {
		return err
	}
	var fine []string
	for _, t := range tables {
		if problem, mend := c.wrongWith(t); problem != "" {
			c.add(check, LevelWarning, problem, mend)
			continue
		}
		fine = append(fine, fmt.Sprintf("%s (%s)", t.Table, strings.Join(t.Entities, ", ")))
	}
	if len(fine) > 0 {
		c.add(check, LevelOK, strings.Join(fine, ", "), "")
	}
	return nil
}

func (c *checkup) wrongWith(t capture.AttachedTable) (problem, mend string) {
	again := fmt.Sprintf("weir attach '%s' --entity '%s' --id '%s' # with --before, where it was attached so",
		t.SQL(), strings.Join(t.Entities, ""), strings.Join(t.IDs, ""))
	switch log := *c.cfg.ChangeLog; {
	case len(t.Disabled) > 0:
		return fmt.Sprintf("%s has triggers that are disabled, so that changes are not captured: %s", t.Table,
			strings.Join(t.Disabled, ", ")), t.Enable()
	case len(t.Theirs) > 0:
		return fmt.Sprintf("%s has capture triggers of FraiseQL, too: each change is logged twice", t.Table), t.DropTheirs()
	case c.cfg.Captures(t.Table):
		return fmt.Sprintf("%s is attached, and source.tables captures it, too: each change is delivered twice", t.Table),
			fmt.Sprintf("weir detach '%s' # or take it out of source.tables", t.SQL())
	case t.LacksID:
		return fmt.Sprintf("%s has no uuid column %s any more: its changes become dead letters", t.Table, strings.Join(t.IDs, ", ")),
			"-- name the column that it is now: weir attach --id"
	case len(t.Missing) > 0:
		return fmt.Sprintf("%s lacks triggers that weir attach makes: %s", t.Table, strings.Join(t.Missing, ", ")), again
	case log == (capture.Table{}):
		return fmt.Sprintf("the triggers of %s write a change log, and none is read (source.change_log is empty)", t.Table),
			fmt.Sprintf("weir detach '%s' # or set source.change_log", t.SQL())
	case len(t.Logs) != 1 || t.Logs[0] != log.Schema:
		return fmt.Sprintf("the triggers of %s write a change log in schema %s, and %s is read", t.Table,
			strings.Join(t.Logs, ", "), log), again
	}
	return "", ""
}
