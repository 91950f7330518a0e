package event

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the write-ahead log. Its text form is PostgreSQL's pg_lsn ("16/B374D848").
type LSN uint64

// ParseLSN reads PostgreSQL's text form.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if ok {
		h, err1 := strconv.ParseUint(hi, 16, 32)
		l, err2 := strconv.ParseUint(lo, 16, 32)
		if err1 == nil && err2 == nil {
			return LSN(h<<32 | l), nil
		}
	}
	return 0, fmt.Errorf("invalid LSN %q: want two hexadecimal numbers as in 16/B374D848", s)
}

// String is PostgreSQL's text form.
func (l LSN) String() string { return string(l.append(make([]byte, 0, len("FFFFFFFF/FFFFFFFF")))) }

func (l LSN) append(b []byte) []byte {
	begin := len(b)
	b = append(strconv.AppendUint(b, uint64(l>>32), 16), '/')
	b = strconv.AppendUint(b, uint64(uint32(l)), 16)
	for i, c := range b[begin:] {
		if c >= 'a' {
			b[begin+i] = c - 'a' + 'A'
		}
	}
	return b
}

// MarshalJSON writes the text form as a JSON string.
func (l LSN) MarshalJSON() ([]byte, error) { return append(l.append([]byte{'"'}), '"'), nil }

// UnmarshalJSON reads the text form from a JSON string.
func (l *LSN) UnmarshalJSON(raw []byte) error {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	v, err := ParseLSN(s)
	*l = v
	return err
}

// Position is a place in commit order. Within a transaction LSN is that of its commit record and Index counts its
// messages from 1, the ones that are ignored included. After a whole transaction the position is the end of its commit
// record with Index 0: a later transaction's commit record starts there at the earliest, so positions only grow.
type Position struct {
	LSN   LSN
	Index int64
}

// Compare orders positions: -1 when p is before q, 0 when equal, 1 when after.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.LSN, q.LSN), cmp.Compare(p.Index, q.Index))
}

// String is for logs: "16/B374D848+3".
func (p Position) String() string { return fmt.Sprintf("%s+%d", p.LSN, p.Index) }
