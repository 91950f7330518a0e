package rule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// kind is the type of a value, as JSON has it. Values are nil, bool, int or number, string, []any and map[string]any.
type kind int

const (
	kindAny kind = iota // not known before the evaluation
	kindNull
	kindBool
	kindNumber
	kindString
	kindList
	kindObject
)

// String is for messages: "a string".
func (k kind) String() string {
	return [...]string{"any value", "null", "true or false", "a number", "a string", "a list", "an object"}[k]
}

func kindOf(v any) kind {
	switch v.(type) {
	case nil:
		return kindNull
	case bool:
		return kindBool
	case int, number:
		return kindNumber
	case string:
		return kindString
	case []any:
		return kindList
	case map[string]any:
		return kindObject
	default:
		return kindAny
	}
}

// decoders are used again: a new one takes more memory than most documents that it decodes.
var decoders = sync.Pool{New: func() any { return new(jsontext.Decoder) }}

// newDecoder reads JSON token by token. done is to be called at the end.
func newDecoder(raw []byte) (dec *jsontext.Decoder, done func()) {
	dec = decoders.Get().(*jsontext.Decoder)
	dec.Reset(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	return dec, func() {
		dec.Reset(&bytes.Buffer{}) // else it would keep the event
		decoders.Put(dec)
	}
}

// ended says that nothing comes after the value.
func ended(dec *jsontext.Decoder) bool {
	_, err := dec.ReadToken()
	return errors.Is(err, io.EOF)
}

// decodeJSON decodes one JSON value with exact numbers. It goes token by token: encoding/json scans a value twice before it
// decodes it, and takes twice as long.
func decodeJSON(raw []byte) (any, error) {
	dec, done := newDecoder(raw)
	defer done()
	v, err := decodeValue(dec)
	if err != nil {
		return nil, err
	}
	if !ended(dec) {
		return nil, errors.New("there is more after the value")
	}
	return v, nil
}

func decodeValue(dec *jsontext.Decoder) (any, error) {
	token, err := dec.ReadToken()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	switch token.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return token.Bool(), nil
	case '0':
		return exactNumber(token.String()), nil
	case '[':
		return decodeList(dec)
	case '{':
		return decodeObject(dec)
	default:
		return token.String(), nil
	}
}

func decodeList(dec *jsontext.Decoder) (any, error) {
	list := []any{}
	for dec.PeekKind() != ']' {
		v, err := decodeValue(dec)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := dec.ReadToken()
	return list, err
}

func decodeObject(dec *jsontext.Decoder) (any, error) {
	object := map[string]any{}
	for dec.PeekKind() != '}' {
		token, err := dec.ReadToken() // a name, or it is no object
		if err != nil {
			return nil, err
		}
		name := token.String()
		if object[name], err = decodeValue(dec); err != nil {
			return nil, err
		}
	}
	_, err := dec.ReadToken()
	return object, err
}

// equal compares two values as == does.
func (e *Env) equal(a, b any) (bool, error) {
	x, y := kindOf(a), kindOf(b)
	if !equatable(x, y) {
		return false, mismatch(x, y)
	}
	return e.same(a, b)
}

// equatable says whether == has a meaning: FraiseQL's number never equals a string, which is not an error.
func equatable(x, y kind) bool {
	numberAndString := x == kindNumber && y == kindString || x == kindString && y == kindNumber
	return x == y || x == kindNull || y == kindNull || x == kindAny || y == kindAny || numberAndString
}

func mismatch(x, y kind) error { return fmt.Errorf("cannot compare %s with %s", x, y) }

// same compares deeply; values of different types are different.
func (e *Env) same(a, b any) (bool, error) {
	x := kindOf(a)
	if x != kindOf(b) {
		return false, nil
	}
	switch x {
	case kindNumber:
		order, err := e.compareNumbers(a, b)
		return order == 0, err
	case kindList:
		return e.sameList(a.([]any), b.([]any))
	case kindObject:
		return e.sameObject(a.(map[string]any), b.(map[string]any))
	default:
		return a == b, nil
	}
}

func (e *Env) sameList(a, b []any) (bool, error) {
	if len(a) != len(b) {
		return false, nil
	}
	if err := e.spend(len(a) * elementCost); err != nil {
		return false, err
	}
	for i := range a {
		if ok, err := e.same(a[i], b[i]); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (e *Env) sameObject(a, b map[string]any) (bool, error) {
	if len(a) != len(b) {
		return false, nil
	}
	if err := e.spend(len(a) * elementCost); err != nil {
		return false, err
	}
	for k := range a {
		other, ok := b[k]
		if !ok {
			return false, nil
		}
		if ok, err := e.same(a[k], other); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// ordered says whether < has a meaning.
func ordered(x, y kind) bool {
	if x == kindNull || y == kindNull {
		return true
	}
	orderable := func(k kind) bool { return k == kindAny || k == kindNumber || k == kindString }
	return orderable(x) && orderable(y) && (x == y || x == kindAny || y == kindAny)
}

// order compares two values that are not null as < does: -1, 0 or 1.
func (e *Env) order(a, b any) (int, error) {
	x, y := kindOf(a), kindOf(b)
	switch {
	case !ordered(x, y):
		return 0, orderError(x, y)
	case x == kindNumber:
		return e.compareNumbers(a, b)
	default:
		return strings.Compare(a.(string), b.(string)), nil
	}
}

func orderError(x, y kind) error {
	for _, k := range []kind{x, y} {
		if k == kindBool || k == kindList || k == kindObject {
			return fmt.Errorf("%s is neither less nor greater than anything: use == or !=", k)
		}
	}
	return mismatch(x, y)
}

// maxText bounds a rendered value or template, in bytes: a few nested expressions can repeat a value very often.
const maxText = 64 << 20

var errTooLong = fmt.Errorf("the text is longer than %d MiB", maxText>>20)

// text is a value as plain text: null is empty, strings are as they are, lists and objects are JSON.
func text(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	default:
		b, err := appendJSON(nil, v)
		return string(b), err
	}
}

// appendJSON writes a value as compact JSON: numbers with their digits, keys in order.
func appendJSON(dst []byte, v any) ([]byte, error) {
	if len(dst) > maxText {
		return nil, errTooLong
	}
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case number:
		return append(dst, v.text...), nil
	case string:
		dst = append(dst, '"')
		dst = appendEscaped(dst, v)
		return append(dst, '"'), nil
	case []any:
		return appendList(dst, v)
	case map[string]any:
		return appendObject(dst, v)
	default:
		return nil, fmt.Errorf("a value of type %T has no JSON form", v)
	}
}

func appendList(dst []byte, list []any) ([]byte, error) {
	var err error
	dst = append(dst, '[')
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = appendJSON(dst, v); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

func appendObject(dst []byte, object map[string]any) ([]byte, error) {
	var err error
	dst = append(dst, '{')
	for i, k := range slices.Sorted(maps.Keys(object)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = appendEscaped(dst, k)
		dst = append(dst, `":`...)
		if dst, err = appendJSON(dst, object[k]); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

// appendEscaped writes text for the inside of a JSON string. encoding/json would also escape < > & and U+2028, which
// receivers that compare bytes do not expect.
func appendEscaped(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for _, r := range s { // invalid UTF-8 becomes U+FFFD
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\r':
			dst = append(dst, `\r`...)
		case r == '\t':
			dst = append(dst, `\t`...)
		case r < ' ':
			dst = append(dst, `\u00`...)
			dst = append(dst, hex[r>>4], hex[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}

// abbreviate shortens text for a message.
func abbreviate(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}
