package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// lookupTime bounds questions about tables and types.
const lookupTime = 5 * time.Second

// typeBook knows how types become JSON. What it does not know it looks up, once, and with the catalog of now: of a type that
// was dropped since, values are written as text.
type typeBook struct {
	known map[uint32]*jsonType
	ask   session
}

// questions are asked of the source.
type questions func(context.Context, *pgx.Conn) error

// session asks them on a connection of their own.
type session func(questions) error

// sessions opens one when it is used, and bounds it: the stream hears nothing else meanwhile.
func sessions(ctx context.Context, connect connector) session {
	return func(ask questions) error {
		ctx, cancel := context.WithTimeout(ctx, lookupTime)
		defer cancel()
		conn, err := connect(ctx)
		if err != nil {
			return fmt.Errorf("connect to the source: %w", err)
		}
		defer closeConn(ctx, conn)
		return ask(ctx, conn)
	}
}

// builtIn are the types that need no question.
var builtIn = map[uint32]jsonForm{
	pgtype.BoolOID: formBool, pgtype.Int2OID: formNumber, pgtype.Int4OID: formNumber, pgtype.Int8OID: formNumber,
	pgtype.Float4OID: formNumber, pgtype.Float8OID: formNumber, pgtype.NumericOID: formNumber,
	pgtype.TimestampOID: formTimestamp, pgtype.TimestamptzOID: formTimestamptz, pgtype.JSONOID: formJSON, pgtype.JSONBOID: formJSON,
	pgtype.TextOID: formText, pgtype.VarcharOID: formText, pgtype.BPCharOID: formText, pgtype.NameOID: formText,
	pgtype.UUIDOID: formText, pgtype.DateOID: formText, pgtype.TimeOID: formText, pgtype.TimetzOID: formText,
	pgtype.IntervalOID: formText, pgtype.ByteaOID: formText, pgtype.OIDOID: formText, pgtype.InetOID: formText,
}

func newTypeBook(ask session) *typeBook {
	b := &typeBook{known: map[uint32]*jsonType{}, ask: ask}
	for oid, form := range builtIn {
		b.known[oid] = &jsonType{form: form}
	}
	return b
}

// learn looks up those of the types that are not known yet.
func (b *typeBook) learn(oids []uint32) error {
	unknown := slices.DeleteFunc(slices.Clone(oids), func(oid uint32) bool { return b.known[oid] != nil })
	if len(unknown) == 0 {
		return nil
	}
	return b.ask(func(ctx context.Context, conn *pgx.Conn) error { return b.lookUp(ctx, conn, unknown) })
}

func (b *typeBook) lookUp(ctx context.Context, conn *pgx.Conn, oids []uint32) error {
	for _, oid := range oids {
		t, err := b.find(ctx, conn, oid, 0)
		if err != nil {
			return fmt.Errorf("look up type %d: %w", oid, err)
		}
		b.known[oid] = t
	}
	return nil
}

// typeRow is what pg_type says of a type.
type typeRow struct {
	Kind     string // b base, c composite, d domain, e enum, p pseudo, r range, m multirange
	Base     uint32 // of a domain
	Element  uint32 // of an array
	Delim    string // between the array's elements
	Vector   bool   // an array that is written with spaces
	Relation uint32 // of a composite type
}

// nested bounds types within types.
const nested = 20

func (b *typeBook) find(ctx context.Context, conn *pgx.Conn, oid uint32, depth int) (*jsonType, error) {
	if t := b.known[oid]; t != nil {
		return t, nil
	}
	t := &jsonType{}
	var row typeRow
	err := conn.QueryRow(ctx, `
		SELECT t.typtype::text, t.typbasetype, CASE WHEN t.typsubscript = 'array_subscript_handler'::regproc THEN t.typelem ELSE 0 END,
		       coalesce(e.typdelim, ',')::text, t.typelem <> 0 AND t.typlen = -1 AND t.typname IN ('int2vector', 'oidvector')
		         AND t.typnamespace = 'pg_catalog'::regnamespace, t.typrelid
		  FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem WHERE t.oid = $1`, oid).
		Scan(&row.Kind, &row.Base, &row.Element, &row.Delim, &row.Vector, &row.Relation)
	if errors.Is(err, pgx.ErrNoRows) || depth > nested {
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	if b.known[oid] = t; row.Kind != "d" { // before what is within it, which may lead back to it
		return t, b.fill(ctx, conn, t, row, depth)
	}
	base, err := b.find(ctx, conn, row.Base, depth+1)
	if err != nil {
		return nil, err
	}
	*t = *base
	return t, nil
}

func (b *typeBook) fill(ctx context.Context, conn *pgx.Conn, t *jsonType, row typeRow, depth int) (err error) {
	switch {
	case row.Element != 0:
		t.form, t.delim = formArray, row.Delim[0]
		if row.Vector {
			t.form = formVector
		}
		t.element, err = b.find(ctx, conn, row.Element, depth+1)
	case row.Kind == "c":
		t.form = formRow
		t.fields, err = b.attributes(ctx, conn, row.Relation, depth)
	}
	return err
}

func (b *typeBook) attributes(ctx context.Context, conn *pgx.Conn, relation uint32, depth int) ([]attribute, error) {
	rows, _ := conn.Query(ctx, `
		SELECT attname::text, atttypid FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
		 ORDER BY attnum`, relation)
	type column struct {
		Name string
		Type uint32
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil {
		return nil, err
	}
	fields := make([]attribute, len(columns))
	for i, c := range columns {
		fields[i].key = jsonKey(c.Name)
		if fields[i].typ, err = b.find(ctx, conn, c.Type, depth+1); err != nil {
			return nil, err
		}
	}
	return fields, nil
}
