package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/jackc/pglogrepl"
)

// datum is one column's value in a tuple. Text is a part of the message: it lasts as long as that does.
type datum struct {
	kind byte // n, t or u, as pglogrepl's TupleDataType constants
	text []byte
}

func (v datum) known() bool     { return v.kind == pglogrepl.TupleDataTypeText || v.isNull() }
func (v datum) isNull() bool    { return v.kind == pglogrepl.TupleDataTypeNull }
func (v datum) unchanged() bool { return v.kind == pglogrepl.TupleDataTypeToast }

// same compares two values that are known.
func (v datum) same(other datum) bool {
	return v.kind == other.kind && bytes.Equal(v.text, other.text)
}

// readDatums reads a tuple of a table with so many columns into a slice that is used again, and returns what follows.
func readDatums(b []byte, columns int, into []datum) (tuple []datum, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errTruncated
	}
	if n := int(binary.BigEndian.Uint16(b)); n != columns {
		return nil, nil, fmt.Errorf("pgoutput tuple with %d columns of a relation of %d", n, columns)
	}
	b, tuple = b[2:], into[:0]
	for range columns {
		if len(b) < 1 {
			return nil, nil, errTruncated
		}
		v := datum{kind: b[0]}
		b = b[1:]
		switch v.kind {
		case pglogrepl.TupleDataTypeNull, pglogrepl.TupleDataTypeToast:
		case pglogrepl.TupleDataTypeText:
			if len(b) < 4 {
				return nil, nil, errTruncated
			}
			size := int(binary.BigEndian.Uint32(b))
			if b = b[4:]; size > len(b) {
				return nil, nil, errTruncated
			}
			v.text, b = b[:size], b[size:]
		default: // binary, which we do not ask for
			return nil, nil, fmt.Errorf("pgoutput tuple with a value of kind %q", v.kind)
		}
		tuple = append(tuple, v)
	}
	return tuple, b, nil
}

const (
	newTuple = 'N'
	keyTuple = 'K' // the columns of the replica identity, the others NULL
	oldTuple = 'O' // the whole row
)

// images are a row before and after a change. nil: there is none, or PostgreSQL did not write it down.
type images struct {
	old, new []datum
	whole    bool // old is the whole row, not its key alone
}

// readImages reads what follows the relation's id in an Insert, Update or Delete.
func (d *decoder) readImages(b []byte, columns int) (im images, err error) {
	for len(b) > 0 {
		kind := b[0]
		switch b = b[1:]; kind {
		case newTuple:
			d.newRow, b, err = readDatums(b, columns, d.newRow)
			im.new = d.newRow
		case keyTuple, oldTuple:
			d.oldRow, b, err = readDatums(b, columns, d.oldRow)
			im.old, im.whole = d.oldRow, kind == oldTuple
		default:
			err = fmt.Errorf("pgoutput tuple of kind %q", kind)
		}
		if err != nil {
			return images{}, err
		}
	}
	return im, nil
}
