package capture

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/jackc/pglogrepl"

	"github.com/fraiseql/weir/internal/event"
)

// relation is a directly captured table as the stream has announced it: with the columns of then.
type relation struct {
	table   CapturedTable
	columns []tableColumn
	id      int  // index of the column with the entity's id, -1 for none
	tenant  int  // likewise
	whole   bool // an old row holds more than the key: REPLICA IDENTITY FULL
	joined  event.LSN
}

// tableColumn is a column that is published.
type tableColumn struct {
	name string
	key  []byte // as JSON, with the colon
	typ  *jsonType
	// identity says that the column is part of the replica identity: that old rows have its value.
	identity bool
}

// announce takes a Relation message for a table that is to be captured.
func (d *decoder) announce(m *pglogrepl.RelationMessage, t CapturedTable) error {
	oids := make([]uint32, len(m.Columns))
	for i, c := range m.Columns {
		oids[i] = c.DataType
	}
	if err := d.types.learn(oids); err != nil {
		return fmt.Errorf("table %s: %w", t.Table, err)
	}
	r := &relation{table: t, whole: m.ReplicaIdentity == identityFull, joined: d.joined[t.Table]}
	for _, c := range m.Columns {
		r.columns = append(r.columns, tableColumn{
			name: c.Name, key: jsonKey(c.Name), typ: d.types.known[c.DataType], identity: c.Flags&1 != 0,
		})
	}
	r.id, r.tenant = r.column(t.ID), r.column(t.Tenant)
	if r.id < 0 {
		r.id = r.onlyIdentity()
	}
	d.tables[m.RelationID] = r
	return nil
}

// identityFull and so on are values of pg_class.relreplident.
const (
	identityDefault = 'd'
	identityNothing = 'n'
	identityFull    = 'f'
	identityIndex   = 'i'
)

// column finds a column, -1 if there is none.
func (r *relation) column(name string) int {
	for i, c := range r.columns {
		if c.name == name {
			return i
		}
	}
	return -1
}

// onlyIdentity is the column that identifies rows, if there is one that does alone: for a table whose id was renamed.
func (r *relation) onlyIdentity() int {
	found := -1
	for i, c := range r.columns {
		if c.identity && found >= 0 {
			return -1
		}
		if c.identity {
			found = i
		}
	}
	return found
}

// changed reads an Insert, Update or Delete of a captured table.
func (d *decoder) changed(typ event.Type, r *relation, body []byte) (decoded, error) {
	im, err := d.readImages(body, len(r.columns))
	if err != nil {
		return decoded{}, err
	}
	switch {
	case typ == event.Delete && im.old == nil, typ != event.Delete && im.new == nil:
		return decoded{}, fmt.Errorf("pgoutput %s of %s without its row", typ, r.table.Table)
	case typ == event.Insert:
		return d.one(r, event.Insert, im, 0), nil
	case typ == event.Delete:
		return d.one(r, event.Delete, im, 0), nil
	}
	if r.whole && im.whole {
		r.complete(im)
	}
	if !r.otherEntity(im) {
		return d.one(r, event.Update, im, 0), nil
	}
	// To whoever keeps the entity, the old one is gone and a new one has come, as the capture trigger has it, too.
	first, second := d.one(r, event.Delete, images{old: im.old, whole: im.whole}, 0), d.one(r, event.Insert, images{new: im.new}, 1)
	return decoded{change: first.change, also: []event.Change{*second.change}}, nil
}

// complete takes values that were too large to be written again from the old row.
func (r *relation) complete(im images) {
	for i := range im.new {
		if im.new[i].unchanged() {
			im.new[i] = im.old[i]
		}
	}
}

// otherEntity says that an Update has changed the entity's id. There is an old row only where a column of the replica identity
// has changed, or under FULL.
func (r *relation) otherEntity(im images) bool {
	if im.old == nil || r.id < 0 || !r.columns[r.id].identity && !im.whole {
		return false
	}
	was, is := im.old[r.id], im.new[r.id]
	return was.known() && is.known() && !was.same(is)
}

// one makes the change of an image: the new row or, for a DELETE, the old one.
func (d *decoder) one(r *relation, typ event.Type, im images, part int) decoded {
	c := d.placed(typ, part)
	c.EntityType = r.table.Entity
	if err := r.fill(&c.Event, im); err != nil {
		c.Reason = fmt.Sprintf("%s of table %s: %s", typ, r.table.Table, err)
	}
	return decoded{change: &c}
}

// fill reads the identity first, so that a dead letter names the row whatever else is wrong with it.
func (r *relation) fill(e *event.Event, im images) error {
	tuple := im.new
	if e.Type == event.Delete {
		tuple = im.old
	}
	if r.id < 0 {
		return fmt.Errorf("there is no column %s any more: set source.tables' id to the column with the entity's id", r.table.ID)
	}
	id := tuple[r.id]
	switch {
	case id.unchanged():
		return fmt.Errorf("the value of %s is not known: make it part of the replica identity", r.columns[r.id].name)
	case id.isNull():
		return fmt.Errorf("%s is NULL: an entity needs an id", r.columns[r.id].name)
	}
	e.EntityID = string(id.text)
	if r.tenant >= 0 && tuple[r.tenant].known() {
		e.TenantID = str(tuple[r.tenant].text)
	}
	e.Data, e.UnchangedFields = r.document(tuple, e.Type == event.Delete && (!r.whole || !im.whole))
	if e.Type == event.Update && r.whole && im.whole {
		e.Changes, e.UpdatedFields = r.diff(im)
	}
	if !utf8.Valid(e.Data) || !utf8.Valid(e.Changes) || !utf8.ValidString(e.EntityID) {
		e.Data, e.Changes, e.UpdatedFields = nil, nil, nil
		return fmt.Errorf("its values are not UTF-8: the server has no encoding that tells what they are")
	}
	return nil
}

// document is the row as to_jsonb would have it, without what is not known.
func (r *relation) document(tuple []datum, keyOnly bool) (data json.RawMessage, unchanged []string) {
	size := 2
	for i, c := range r.columns {
		size += len(c.key) + len(tuple[i].text) + 8
	}
	data = append(make([]byte, 0, size), '{')
	for i, c := range r.columns {
		switch {
		case keyOnly && !c.identity:
			continue
		case tuple[i].unchanged():
			unchanged = append(unchanged, c.name)
			continue
		}
		if len(data) > 1 {
			data = append(data, ',')
		}
		data = c.append(data, tuple[i])
	}
	return append(data, '}'), unchanged
}

// append writes the key and the value.
func (c *tableColumn) append(dst []byte, v datum) []byte {
	return c.appendValue(append(dst, c.key...), v)
}

func (c *tableColumn) appendValue(dst []byte, v datum) []byte {
	if v.isNull() {
		return append(dst, "null"...)
	}
	return c.typ.appendValue(dst, v.text)
}

// diff is what an Update has changed, by the text of the values: 100.0 and 100.00 differ, as their digits do.
func (r *relation) diff(im images) (changes json.RawMessage, fields []string) {
	changes, fields = append(changes, '{'), []string{}
	for i, c := range r.columns {
		was, is := im.old[i], im.new[i]
		if !was.known() || !is.known() || was.same(is) {
			continue
		}
		if len(fields) > 0 {
			changes = append(changes, ',')
		}
		fields = append(fields, c.name)
		changes = c.appendValue(append(append(changes, c.key...), `{"old":`...), was)
		changes = append(c.appendValue(append(changes, `,"new":`...), is), '}')
	}
	return append(changes, '}'), fields
}

const (
	truncateCascade         = 1
	truncateRestartIdentity = 2
)

// truncated reads a Truncate, which may be of several tables. Of what it removed it says nothing, so it is no DELETE.
func (d *decoder) truncated(b []byte) (decoded, error) {
	if len(b) < 5 {
		return decoded{}, errTruncated
	}
	n, options := int(binary.BigEndian.Uint32(b)), b[4]
	if b = b[5:]; len(b) < 4*n || n < 0 {
		return decoded{}, errTruncated
	}
	var got decoded
	for part := range n {
		r := d.tables[binary.BigEndian.Uint32(b[4*part:])]
		if r == nil || d.pos.LSN < r.joined {
			continue
		}
		c := d.placed(event.Custom, part)
		c.EntityType = r.table.Entity
		c.Data = append([]byte(`{"operation":"TRUNCATE","table":`), appendString(nil, []byte(r.table.Table.String()))...)
		c.Data = strconv.AppendBool(append(c.Data, `,"cascade":`...), options&truncateCascade != 0)
		c.Data = strconv.AppendBool(append(c.Data, `,"restart_identity":`...), options&truncateRestartIdentity != 0)
		c.Data = append(c.Data, '}')
		if got.change == nil {
			got.change = &c
		} else {
			got.also = append(got.also, c)
		}
	}
	return got, nil
}

// table reads a change of a table: of one that is captured, if it is news. The others count and are ignored.
func (d *decoder) table(typ event.Type, b []byte, after event.Position) (decoded, error) {
	if len(b) < 4 {
		return decoded{}, errTruncated
	}
	r := d.tables[binary.BigEndian.Uint32(b)]
	if r == nil || d.pos.Compare(after) <= 0 || d.pos.LSN < r.joined {
		return decoded{}, nil
	}
	return d.changed(typ, r, b[4:])
}
