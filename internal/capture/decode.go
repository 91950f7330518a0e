package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fraiseql/weir/internal/event"
)

// heartbeatPrefix marks our own message; messages with prefixes other than this and eventPrefix are counted and ignored.
const heartbeatPrefix = "weir.heartbeat"

// decoder turns pgoutput messages (protocol version 1, text format) into changes and keeps the place in commit order.
// Protocol: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
type decoder struct {
	changeLog Table
	written   timelines                       // part of the identity of what is not in the change log
	stray     func()                          // told of each message with our prefix that no transaction holds
	relations map[uint32][]func(*row) *[]byte // by relation id, a column's field or nil; nil: not the change log
	isJSON    bool                            // the change log's documents all are, by their types

	cfg            Config // its tables
	types          *typeBook
	tables         map[uint32]*relation // by relation id, those of cfg
	joined         map[Table]event.LSN  // what of a table was committed before it came with a snapshot
	oldRow, newRow []datum              // used again for each change

	open      bool // between Begin and Commit
	committed time.Time
	pos       event.Position
}

// decoded is what one message amounts to: nothing, a change, or a heartbeat.
type decoded struct {
	change    *event.Change
	also      []event.Change // at the same place: never parted from change
	heartbeat bool
}

var errTruncated = errors.New("pgoutput message ends early")

func newDecoder(cfg Config, written timelines, ask session) *decoder {
	return &decoder{
		changeLog: *cfg.ChangeLog, written: written, stray: func() {}, relations: map[uint32][]func(*row) *[]byte{},
		cfg: cfg, types: newTypeBook(ask), tables: map[uint32]*relation{},
	}
}

// decode reads one message and moves the position. Everything that the message holds is copied.
func (d *decoder) decode(wal []byte, after event.Position) (decoded, error) {
	if len(wal) == 0 {
		return decoded{}, errTruncated
	}
	switch pglogrepl.MessageType(wal[0]) {
	case pglogrepl.MessageTypeInsert:
		d.pos.Index++
		return d.insert(wal[1:], after)
	case pglogrepl.MessageTypeUpdate:
		d.pos.Index++
		return d.table(event.Update, wal[1:], after)
	case pglogrepl.MessageTypeDelete:
		d.pos.Index++
		return d.table(event.Delete, wal[1:], after)
	case pglogrepl.MessageTypeTruncate:
		d.pos.Index++
		if d.pos.Compare(after) <= 0 {
			return decoded{}, nil
		}
		return d.truncated(wal[1:])
	case pglogrepl.MessageTypeMessage:
		return d.message(wal, after)
	case pglogrepl.MessageTypeBegin:
		return decoded{}, d.begin(wal)
	case pglogrepl.MessageTypeCommit:
		return decoded{}, d.commit(wal)
	case pglogrepl.MessageTypeRelation:
		return decoded{}, d.relation(wal)
	default: // Type and Origin: neither is counted nor needed
		return decoded{}, nil
	}
}

// parse has pglogrepl decode a message. Its decoders trust the lengths in a message and panic where they are wrong.
func parse(m interface{ Decode(src []byte) error }, body []byte) (err error) {
	defer func() {
		if broken := recover(); broken != nil {
			err = fmt.Errorf("the message is malformed: %v", broken)
		}
	}()
	return m.Decode(body)
}

func (d *decoder) begin(wal []byte) error {
	var m pglogrepl.BeginMessage
	if err := parse(&m, wal[1:]); err != nil {
		return fmt.Errorf("decode Begin: %w", err)
	}
	d.open, d.committed = true, m.CommitTime
	d.pos = event.Position{LSN: event.LSN(m.FinalLSN)}
	return nil
}

func (d *decoder) commit(wal []byte) error {
	var m pglogrepl.CommitMessage
	if err := parse(&m, wal[1:]); err != nil {
		return fmt.Errorf("decode Commit: %w", err)
	}
	d.open = false
	d.pos = event.Position{LSN: event.LSN(m.TransactionEndLSN)}
	return nil
}

func (d *decoder) message(wal []byte, after event.Position) (decoded, error) {
	var m pglogrepl.LogicalDecodingMessage
	if err := parse(&m, wal[1:]); err != nil {
		return decoded{}, fmt.Errorf("decode Message: %w", err)
	}
	if !m.Transactional { // it has no place in commit order
		if m.Prefix == eventPrefix {
			d.stray()
		}
		return decoded{}, nil
	}
	d.pos.Index++
	switch {
	case d.pos.Compare(after) <= 0: // a heartbeat that is sent again would take the checkpoint back to it
		return decoded{}, nil
	case m.Prefix == heartbeatPrefix:
		return decoded{heartbeat: true}, nil
	case m.Prefix == eventPrefix:
		c := d.customEvent(m.Content)
		return decoded{change: &c}, nil
	}
	return decoded{}, nil
}

func (d *decoder) relation(wal []byte) error {
	var m pglogrepl.RelationMessage
	if err := parse(&m, wal[1:]); err != nil {
		return fmt.Errorf("decode Relation: %w", err)
	}
	name := Table{Schema: m.Namespace, Name: m.RelationName}
	delete(d.tables, m.RelationID)
	if name != d.changeLog {
		d.relations[m.RelationID] = nil
		if t := d.cfg.captured(name); t != nil {
			return d.announce(&m, *t)
		}
		return nil
	}
	fields := make([]func(*row) *[]byte, len(m.Columns))
	d.isJSON = true
	for i, c := range m.Columns {
		fields[i] = fieldOf(c.Name)
		if isDocument(c.Name) && c.DataType != pgtype.JSONBOID && c.DataType != pgtype.JSONOID {
			d.isJSON = false // the contract's table may have been retyped by hand
		}
	}
	d.relations[m.RelationID] = fields
	return nil
}

// insert reads: int32 relation, 'N', int16 columns, and for each its kind and, when it has a value, int32 length and
// the bytes. It walks them itself, since most columns are skipped and the rest are wanted without a detour.
func (d *decoder) insert(b []byte, after event.Position) (decoded, error) {
	if len(b) < 7 {
		return decoded{}, errTruncated
	}
	id := binary.BigEndian.Uint32(b)
	fields, known := d.relations[id]
	if !known {
		return decoded{}, fmt.Errorf("pgoutput Insert of relation %d that was not announced", id)
	}
	if fields == nil {
		return d.table(event.Insert, b, after)
	}
	if d.pos.Compare(after) <= 0 {
		return decoded{}, nil
	}
	if b[4] != 'N' {
		return decoded{}, fmt.Errorf("pgoutput Insert whose tuple is of kind %q, not a new one", b[4])
	}
	if n := int(binary.BigEndian.Uint16(b[5:])); n != len(fields) {
		return decoded{}, fmt.Errorf("pgoutput Insert with %d columns into a relation of %d", n, len(fields))
	}
	r := row{isJSON: d.isJSON}
	if err := readTuple(b[7:], fields, &r); err != nil {
		return decoded{}, err
	}
	c := r.change(d.pos, d.committed)
	return decoded{change: &c}, nil
}

func readTuple(b []byte, fields []func(*row) *[]byte, r *row) error {
	for _, field := range fields {
		if len(b) < 1 {
			return errTruncated
		}
		kind := b[0]
		b = b[1:]
		switch kind {
		case pglogrepl.TupleDataTypeNull:
			continue
		case pglogrepl.TupleDataTypeText:
		default: // binary, which we do not ask for, or unchanged TOAST, which an Insert has none of: neither is NULL
			return fmt.Errorf("pgoutput Insert with a value of kind %q", kind)
		}
		if len(b) < 4 {
			return errTruncated
		}
		size := int(binary.BigEndian.Uint32(b))
		if b = b[4:]; size > len(b) {
			return errTruncated
		}
		if field != nil {
			// A copy: the connection reuses its buffer. Never nil, not even when empty: nil is NULL.
			*field(r) = append(make([]byte, 0, size), b[:size]...)
		}
		b = b[size:]
	}
	return nil
}
