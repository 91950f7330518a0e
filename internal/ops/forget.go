package ops

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/capture"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/store"
)

// mostMentions bounds how many events are looked at for a mention.
const mostMentions = 10_000

// ChangeLogOf is what the change log has of one entity.
type ChangeLogOf struct {
	Source               *pgx.Conn
	Table                capture.Table // zero: there is no change log
	EntityType, EntityID string
}

// Count counts the rows: all of them, whatever row security lets the role see, or it fails.
func (c ChangeLogOf) Count(ctx context.Context) (rows int64, err error) {
	err = c.inTx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT count(*)"+c.from(), c.EntityType, c.EntityID).Scan(&rows)
	})
	if err != nil {
		return 0, fmt.Errorf("count the rows of %s: %w", c.Table, err)
	}
	return rows, nil
}

// Remove removes the rows, and says how many they were.
func (c ChangeLogOf) Remove(ctx context.Context) (rows int64, err error) {
	err = c.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "DELETE"+c.from(), c.EntityType, c.EntityID)
		rows = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("remove rows of %s: %w", c.Table, err)
	}
	return rows, nil
}

// CheckRemovable says whether Remove may do what it is asked to.
func (c ChangeLogOf) CheckRemovable(ctx context.Context) error {
	if c.Table == (capture.Table{}) {
		return errors.New("the configuration has no change log (source.change_log is empty)")
	}
	var may bool
	err := c.Source.QueryRow(ctx, "SELECT has_table_privilege($1::text, 'DELETE')", c.Table.SQL()).Scan(&may)
	if err == nil && !may {
		err = errors.New("the role of the source may not delete")
	}
	if err != nil {
		return fmt.Errorf("remove rows of %s: %w", c.Table, err)
	}
	return nil
}

func (c ChangeLogOf) from() string {
	return " FROM " + c.Table.SQL() + " WHERE object_type::text = $1::text AND object_id::text = $2::text"
}

func (c ChangeLogOf) inTx(ctx context.Context, do func(tx pgx.Tx) error) error {
	if c.Table == (capture.Table{}) {
		return nil
	}
	return pgx.BeginFunc(ctx, c.Source, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL row_security = off"); err != nil { // an error, never an empty answer
			return err
		}
		return do(tx)
	})
}

// Mentions are events of other entities that have an entity's id among their words.
type Mentions struct {
	Events int64 `json:"events"` // how many
	// AtLeast: not all have been looked at.
	AtLeast bool `json:"at_least"`
}

// Mentions counts them. An id without letters and digits is no word.
func (h History) Mentions(ctx context.Context, entityType, entityID string) (m Mentions, err error) {
	query, err := index.ParseQuery(`"` + strings.ReplaceAll(entityID, `"`, " ") + `"`)
	if err != nil {
		return m, nil //nolint:nilerr // nothing that could be looked for
	}
	if _, err = h.settle(ctx); err != nil {
		return m, err
	}
	s := index.Search{Query: query, Limit: maxPage}
	for seen := 0; ; seen += maxPage {
		hits, err := h.hits(ctx, s)
		if err != nil {
			return m, err
		}
		for _, hit := range hits {
			e, err := event.Parse(hit.Payload)
			if err != nil || e.EntityType != entityType || e.EntityID != entityID {
				m.Events++
			}
		}
		if len(hits) < maxPage {
			return m, nil
		}
		if seen+maxPage >= mostMentions {
			m.AtLeast = true
			return m, nil
		}
		s.Before = hits[len(hits)-1].Seq
	}
}

// StoredIn says whether a store of the history has ever had something.
func StoredIn(ctx context.Context, db DB, name string) (bool, error) {
	at, err := store.New().GetHistory(ctx, db, name)
	if err != nil {
		return false, fmt.Errorf("how far the history is: %w", err)
	}
	return at.EventSeq > 0, nil
}
