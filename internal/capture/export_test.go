package capture

import "github.com/fraiseql/weir/internal/event"

// Decoder is the decoder, for tests from outside.
type Decoder struct{ d *decoder }

// NewDecoder decodes rows of this table.
func NewDecoder(changeLog Table) Decoder {
	return Decoder{newDecoder(Config{ChangeLog: &changeLog}, timelines{system: "1", now: 1}, nil)}
}

// Decode returns the change of a message, nil when it is none.
func (d Decoder) Decode(message []byte) (*event.Change, error) {
	got, err := d.d.decode(message, event.Position{})
	return got.change, err
}
