package capture

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// jsonType is how the values of a type become JSON: as PostgreSQL's to_jsonb writes them, digit by digit. The zero value is
// text, which is what to_jsonb makes of most types.
type jsonType struct {
	form    jsonForm
	element *jsonType   // of an array or a vector
	delim   byte        // of an array
	fields  []attribute // of a row
}

// attribute is a field of a composite type.
type attribute struct {
	key []byte // as JSON, with the colon
	typ *jsonType
}

// jsonForm is the rule that a type follows.
type jsonForm int

const (
	formText jsonForm = iota
	formBool
	formNumber
	formTimestamp
	formTimestamptz
	formJSON
	formArray
	formVector // int2vector and oidvector: arrays that are written with spaces
	formRow
)

// appendValue writes a value, given in PostgreSQL's text form under our session's settings. What does not have the form that
// its type says, is written as text: a type may have been altered since.
func (t *jsonType) appendValue(dst, text []byte) []byte {
	switch t.form {
	case formBool:
		switch string(text) {
		case "t":
			return append(dst, "true"...)
		case "f":
			return append(dst, "false"...)
		}
	case formNumber:
		if out, ok := appendNumber(dst, text); ok {
			return out
		}
	case formTimestamp:
		return appendString(dst, isoTime(text, ""))
	case formTimestamptz:
		return appendString(dst, isoTime(text, ":00"))
	case formJSON:
		if json.Valid(text) {
			return append(dst, text...)
		}
	case formArray:
		if out, ok := t.appendArray(dst, text); ok {
			return out
		}
	case formVector:
		return t.appendVector(dst, text)
	case formRow:
		if out, ok := t.appendRow(dst, text); ok {
			return out
		}
	case formText:
	}
	return appendString(dst, text)
}

// appendNumber writes the digits out where there is an exponent (float4, float8), as a numeric has them. NaN and Infinity are
// no numbers in JSON.
func appendNumber(dst, text []byte) ([]byte, bool) {
	if !isNumber(text) {
		return dst, false
	}
	e := bytes.IndexByte(text, 'e')
	if e < 0 {
		if string(text) == "-0" { // of a float; a numeric has no such zero
			text = text[1:]
		}
		return append(dst, text...), true
	}
	exponent, err := strconv.Atoi(string(text[e+1:]))
	if err != nil || exponent > 400 || exponent < -400 { // no float has more
		return append(dst, text...), true
	}
	whole, fraction, _ := bytes.Cut(bytes.TrimPrefix(text[:e], []byte("-")), []byte("."))
	all := append(bytes.Clone(whole), fraction...)
	digits := bytes.TrimLeft(all, "0")
	point := len(whole) + exponent - (len(all) - len(digits))
	if len(digits) == 0 {
		return append(dst, '0'), true
	}
	if text[0] == '-' {
		dst = append(dst, '-')
	}
	switch {
	case point <= 0:
		dst = append(append(append(dst, "0."...), bytes.Repeat([]byte("0"), -point)...), digits...)
	case point >= len(digits):
		dst = append(append(dst, digits...), bytes.Repeat([]byte("0"), point-len(digits))...)
	default:
		dst = append(append(append(dst, digits[:point]...), '.'), digits[point:]...)
	}
	return dst, true
}

func isNumber(text []byte) bool {
	digits := bytes.TrimPrefix(text, []byte("-"))
	return len(digits) > 0 && digits[0] >= '0' && digits[0] <= '9' && json.Valid(text)
}

// isoTime is ISO 8601, as to_jsonb has it: a T in place of the space, and the zone's minutes. infinity is left as it is, and
// so is the BC behind a year before 1.
func isoTime(text []byte, minutes string) []byte {
	day, rest, ok := bytes.Cut(text, []byte(" "))
	if !ok {
		return text
	}
	out := append(append(make([]byte, 0, len(text)+len(minutes)), day...), 'T')
	if minutes == "" {
		return append(out, rest...)
	}
	clock, era, before := bytes.Cut(rest, []byte(" "))
	out = append(append(out, clock...), minutes...)
	if before {
		out = append(append(out, ' '), era...)
	}
	return out
}

// appendVector is for types without quotes and NULL.
func (t *jsonType) appendVector(dst, text []byte) []byte {
	dst = append(dst, '[')
	for i, part := range bytes.Fields(text) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = t.element.appendValue(dst, part)
	}
	return append(dst, ']')
}

// appendArray reads array_out's form: {1,NULL,"a \"b\""}, nested for each further dimension, with [2:3]= before it where the
// first index is not 1.
func (t *jsonType) appendArray(dst, text []byte) ([]byte, bool) {
	if len(text) > 0 && text[0] == '[' {
		bounds := bytes.IndexByte(text, '=')
		if bounds < 0 {
			return dst, false
		}
		text = text[bounds+1:]
	}
	begin := len(dst)
	dst, rest, ok := t.appendDimension(dst, text, 0)
	if !ok || len(rest) > 0 {
		return dst[:begin], false
	}
	return dst, true
}

// deepest is more than the six dimensions that PostgreSQL has.
const deepest = 10

func (t *jsonType) appendDimension(dst, text []byte, depth int) (out, rest []byte, ok bool) {
	if len(text) < 2 || text[0] != '{' || depth > deepest {
		return dst, nil, false
	}
	dst, text = append(dst, '['), text[1:]
	if text[0] == '}' {
		return append(dst, ']'), text[1:], true
	}
	for {
		if len(text) > 0 && text[0] == '{' {
			dst, text, ok = t.appendDimension(dst, text, depth+1)
		} else {
			dst, text, ok = t.appendElement(dst, text)
		}
		if !ok || len(text) == 0 {
			return dst, nil, false
		}
		end := text[0]
		text = text[1:]
		switch end {
		case '}':
			return append(dst, ']'), text, true
		case t.delim:
			dst = append(dst, ',')
		default:
			return dst, nil, false
		}
	}
}

func (t *jsonType) appendElement(dst, text []byte) (out, rest []byte, ok bool) {
	if len(text) > 0 && text[0] == '"' {
		value, rest, ok := unquote(text)
		if !ok {
			return dst, nil, false
		}
		return t.element.appendValue(dst, value), rest, true
	}
	end := bytes.IndexAny(text, "}"+string(t.delim))
	if end < 0 {
		return dst, nil, false
	}
	value := text[:end]
	if string(value) == "NULL" {
		return append(dst, "null"...), text[end:], true
	}
	return t.element.appendValue(dst, value), text[end:], true
}

// unquote reads a quoted value and returns what follows. Arrays escape with backslashes, rows by doubling.
func unquote(text []byte) (value, rest []byte, ok bool) {
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && i+1 < len(text):
			i++
		case text[i] == '"' && i+1 < len(text) && text[i+1] == '"':
			i++
		case text[i] == '"':
			return value, text[i+1:], true
		}
		value = append(value, text[i])
	}
	return nil, nil, false
}

// appendRow reads record_out's form: (1,,"a ""b"""), where nothing is NULL and "" is empty.
func (t *jsonType) appendRow(dst, text []byte) ([]byte, bool) {
	begin := len(dst)
	if len(text) < 2 || text[0] != '(' {
		return dst, false
	}
	dst, text = append(dst, '{'), text[1:]
	for i, field := range t.fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, field.key...)
		var value []byte
		null := false
		if len(text) > 0 && text[0] == '"' {
			var ok bool
			if value, text, ok = unquote(text); !ok {
				return dst[:begin], false
			}
		} else {
			end := bytes.IndexAny(text, ",)")
			if end < 0 {
				return dst[:begin], false
			}
			value, text = text[:end], text[end:]
			null = len(value) == 0
		}
		want := byte(',')
		if i == len(t.fields)-1 {
			want = ')'
		}
		if len(text) == 0 || text[0] != want { // it has another number of fields than the type has by now
			return dst[:begin], false
		}
		text = text[1:]
		if null {
			dst = append(dst, "null"...)
		} else {
			dst = field.typ.appendValue(dst, value)
		}
	}
	if len(text) > 0 {
		return dst[:begin], false
	}
	return append(dst, '}'), true
}

// appendString writes a JSON string of text that is UTF-8; whoever uses it looks whether it is.
func appendString(dst, text []byte) []byte {
	dst = append(dst, '"')
	from := 0
	for i, c := range text {
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, text[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			const hex = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, text[from:]...), '"')
}

// jsonKey is a column's name as a key, with the colon.
func jsonKey(name string) []byte {
	if !utf8.ValidString(name) { // on a server without an encoding
		name = string(bytes.ToValidUTF8([]byte(name), []byte("\uFFFD")))
	}
	return append(appendString(nil, []byte(name)), ':')
}
