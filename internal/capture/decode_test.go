package capture

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/fraiseql/weir/internal/event"
)

// An Insert that is not as the protocol has it must not become a row with NULLs.
func TestInsertOfAnotherKind(t *testing.T) {
	t.Parallel()
	const id = 7
	u16, u32 := binary.BigEndian.AppendUint16, binary.BigEndian.AppendUint32
	relation := append(u32([]byte("R"), id), "core\x00tb_entity_change_log\x00d"...)
	relation = u16(relation, 2)
	for _, name := range []string{"pk_entity_change_log", "object_type"} {
		relation = u32(u32(append(relation, "\x00"+name+"\x00"...), 25), 0xffffffff)
	}
	begin := append([]byte("B"), make([]byte, 20)...)
	begin[8] = 1 // the last byte of the LSN
	insert := func(tuple string, columns uint16, values string) []byte {
		return append(u16(append(u32([]byte("I"), id), tuple...), columns), values...)
	}
	const seven = "t\x00\x00\x00\x017"
	for name, tt := range map[string]struct {
		message []byte
		want    string // in the error, "" for none
	}{
		"text and NULL":      {insert("N", 2, seven+"n"), ""},
		"binary":             {insert("N", 2, seven+"b\x00\x00\x00\x01x"), `kind 'b'`},
		"unchanged TOAST":    {insert("N", 2, seven+"u"), `kind 'u'`},
		"something unknown":  {insert("N", 2, seven+"z"), `kind 'z'`},
		"old tuple":          {insert("O", 2, seven+"n"), `tuple is of kind 'O'`},
		"too few columns":    {insert("N", 1, seven), "1 columns into a relation of 2"},
		"too many columns":   {insert("N", 3, seven+"nn"), "3 columns into a relation of 2"},
		"end before the end": {insert("N", 2, seven), "ends early"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDecoder(Config{}.WithDefaults(), timelines{system: "1", now: 1}, nil)
			for _, m := range [][]byte{begin, relation} {
				if _, err := d.decode(m, event.Position{}); err != nil {
					t.Fatal(err)
				}
			}
			got, err := d.decode(slices.Clone(tt.message), event.Position{})
			switch {
			case tt.want == "" && (err != nil || got.change == nil || got.change.Event.PK != 7):
				t.Errorf("got %+v, %v", got.change, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
