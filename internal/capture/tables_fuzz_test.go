package capture

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/fraiseql/weir/internal/event"
)

// someTypes are of each form.
func someTypes() []*jsonType {
	number := &jsonType{form: formNumber}
	row := &jsonType{form: formRow, fields: []attribute{{key: jsonKey(`a"`), typ: number}, {key: jsonKey("b"), typ: &jsonType{}}}}
	return []*jsonType{
		{},
		{form: formBool},
		number,
		{form: formTimestamp},
		{form: formTimestamptz},
		{form: formJSON},
		row,
		{form: formArray, element: number, delim: ','},
		{form: formArray, element: row, delim: ';'},
		{form: formVector, element: number},
		{form: formRow, fields: []attribute{{key: jsonKey("r"), typ: row}}},
	}
}

// FuzzValue: whatever a value's text is, what is written is one JSON value, and a number keeps its value.
func FuzzValue(f *testing.F) {
	for _, s := range []string{
		"t", "1.5e-7", "-1e+308", "2026-02-28 22:30:00.12+00 BC", `{1,NULL,"a\"b",{2}}`, `[2:3]={1,2}`, `(1,"a ""b""\\")`, `("(1,x)")`, "1 2 -3", "{}",
		`{"(1,)";NULL}`, "infinity", "\x00\x1f\x7f\u2028", `{"a": [1e400]}`, "-0", "{{{{", `{"`, "(", "1e99999999999999999999",
	} {
		f.Add([]byte(s))
	}
	types := someTypes()
	f.Fuzz(func(t *testing.T, text []byte) {
		if !utf8.Valid(text) {
			return
		}
		for _, typ := range types {
			out := typ.appendValue([]byte("x"), text)
			if out[0] != 'x' || !json.Valid(out[1:]) {
				t.Errorf("form %d of %q is %q", typ.form, text, out)
			}
		}
	})
}

// FuzzTables: no bytes make the decoder of tables panic, and what it makes of them can be written as JSON. A message is its
// length (16 bits) and its bytes.
func FuzzTables(f *testing.F) {
	u16, u32 := binary.BigEndian.AppendUint16, binary.BigEndian.AppendUint32
	begin := append([]byte("B"), make([]byte, 20)...)
	begin[8] = 1
	relation := func(identity string) []byte {
		b := append(u32([]byte("R"), 7), "public\x00orders\x00"+identity...)
		b = u16(b, 3)
		for i, c := range []struct {
			name string
			typ  uint32
		}{{"id", pgtype.Int8OID}, {"v", pgtype.TextOID}, {"list", pgtype.Int4ArrayOID}} {
			b = u32(u32(append(append(b, byte(1-min(i, 1))), c.name+"\x00"...), c.typ), 0xffffffff)
		}
		return b
	}
	tuple := func(kind string, values ...string) []byte {
		b := u16([]byte(kind), uint16(len(values)))
		for _, v := range values {
			if b = append(b, v[0]); v[0] == 't' {
				b = append(u32(b, uint32(len(v)-1)), v[1:]...)
			}
		}
		return b
	}
	change := func(kind string, tuples ...[]byte) []byte {
		b := u32([]byte(kind), 7)
		for _, t := range tuples {
			b = append(b, t...)
		}
		return b
	}
	for _, identity := range []string{"d", "f"} {
		var seed []byte
		for _, m := range [][]byte{
			begin, relation(identity), change("I", tuple("N", "t1", "ta\"", "t{1,NULL}")), change("U", tuple("N", "t1", "u", "n")),
			change("U", tuple("K", "t1", "n", "n"), tuple("N", "t2", "tx", "n")), change("U", tuple("O", "t1", "tx", "n"), tuple("N", "t2", "u", "n")),
			change("D", tuple("K", "t1", "n", "n")), change("D", tuple("O", "t1", "n", "t{}")), u32([]byte("T\x00\x00\x00\x01\x03"), 7),
		} {
			seed = append(u16(seed, uint16(len(m))), m...)
		}
		f.Add(seed)
	}
	cfg := Config{ChangeLog: &Table{}, Tables: []CapturedTable{{Table: Table{Schema: "public", Name: "orders"}, Tenant: "v"}}}.WithDefaults()
	f.Fuzz(func(t *testing.T, stream []byte) {
		dec := newDecoder(cfg, timelines{system: "1", now: 1}, func(_ questions) error { return errors.New("nobody answers") })
		dec.types.known[pgtype.Int4ArrayOID] = &jsonType{form: formArray, element: &jsonType{form: formNumber}, delim: ','}
		for len(stream) >= 2 {
			n := min(int(binary.BigEndian.Uint16(stream)), len(stream)-2)
			got, _ := dec.decode(stream[2:2+n], event.Position{}) // an error is fine
			stream = stream[2+n:]
			if got.change == nil {
				continue
			}
			for _, c := range append(got.also, *got.change) {
				if _, err := c.JSON(); err != nil {
					t.Errorf("%+v: %v", c, err)
				}
			}
		}
	})
}
