package rule

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fraiseql/weir/internal/event"
)

// hasField is has_field('f'): data has the key, if only with null.
func hasField(e *Env, args []any) (any, error) {
	object, err := e.object()
	if err != nil {
		return nil, err
	}
	_, ok := object[args[0].(string)]
	return ok, nil
}

// fieldChanged is field_changed('f').
func fieldChanged(e *Env, args []any) (any, error) {
	changed, _, err := e.change(args[0].(string))
	return changed, err
}

// fieldChangedTo is field_changed_to('f', v). Without a before-image the new value is that of data.
func fieldChangedTo(e *Env, args []any) (any, error) {
	name := args[0].(string)
	changed, change, err := e.change(name)
	if !changed || err != nil {
		return false, err
	}
	if change != nil {
		return e.spells(change["new"], args[1])
	}
	value, err := e.key(name)
	if err != nil {
		return nil, err
	}
	return e.spells(value, args[1])
}

// fieldChangedFrom is field_changed_from('f', v). Without a before-image nobody knows the old value of a field that
// changed.
func fieldChangedFrom(e *Env, args []any) (any, error) {
	name := args[0].(string)
	changed, change, err := e.change(name)
	if !changed || err != nil {
		return false, err
	}
	if change == nil {
		return nil, fmt.Errorf("the event has no before-image (changes is null), so the old value of %q is not known: "+
			"let the producer write object_data_before", name)
	}
	return e.spells(change["old"], args[1])
}

// change says whether an UPDATE changed a field and, when there is a before-image, its entry in changes: {old, new}.
// Other events change no field.
func (e *Env) change(name string) (changed bool, change map[string]any, err error) {
	if e.event.Type != event.Update {
		return false, nil, nil
	}
	changes, err := e.field("changes")
	if err != nil {
		return false, nil, err
	}
	if changes == nil {
		if e.event.UpdatedFields == nil {
			return false, nil, errors.New("the event has neither a before-image (changes) nor updated_fields, so what " +
				"changed is not known: let the producer write object_data_before or updated_fields")
		}
		return slices.Contains(e.event.UpdatedFields, name), nil, nil
	}
	object, ok := changes.(map[string]any)
	if !ok {
		return false, nil, fmt.Errorf("changes of the event is %s, not an object", kindOf(changes))
	}
	entry, changed := object[name]
	if !changed {
		return false, nil, nil
	}
	if change, ok = entry.(map[string]any); !ok {
		return false, nil, fmt.Errorf("changes of the event has %s for %q, not {old, new}", kindOf(entry), name)
	}
	return true, change, nil
}

// spells says whether v is the value. FraiseQL reads v as JSON first, so '100' is also the number 100 and 'true' also
// true; a string is only ever itself.
func (e *Env) spells(value, v any) (bool, error) {
	if s, ok := v.(string); ok && kindOf(value) != kindString {
		scalar, err := decodeJSON([]byte(s))
		if err != nil {
			return false, nil //nolint:nilerr // v spells no JSON: it is just another string
		}
		v = scalar
	}
	return e.same(value, v)
}
