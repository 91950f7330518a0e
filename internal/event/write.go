package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// JSON writes the event, without escaping HTML: receivers see the characters that were stored. It is written key by key, since
// each event is written once on its way in, and encoding/json takes three times as long; a test holds both against each other.
func (e *Event) JSON() ([]byte, error) {
	for _, raw := range []json.RawMessage{e.Data, e.Changes, e.TraceContext} {
		if len(raw) > 0 && !jsontext.Value(raw).IsValid(anyJSON) {
			return nil, fmt.Errorf("encode event %s: data, changes or trace_context is not JSON", e.ID)
		}
	}
	const others = 600 // keys, ids, times: more than most events need
	b := make([]byte, 0, others+len(e.Data)+len(e.Changes)+len(e.TraceContext))
	b = appendUUID(append(b, `{"id":`...), e.ID)
	b = appendString(append(b, `,"event_type":`...), string(e.Type))
	b = appendString(append(b, `,"entity_type":`...), e.EntityType)
	b = appendString(append(b, `,"entity_id":`...), e.EntityID)
	b = appendRaw(append(b, `,"data":`...), orDefault(e.Data, "{}"))
	b = appendRaw(append(b, `,"changes":`...), orDefault(e.Changes, "null"))
	b = appendText(append(b, `,"user_id":`...), e.UserID)
	b = appendText(append(b, `,"tenant_id":`...), e.TenantID)
	b = appendTime(append(b, `,"timestamp":`...), e.Timestamp)
	b = appendInt(append(b, `,"duration_ms":`...), e.DurationMS)
	b = appendInt(append(b, `,"seq":`...), e.Seq)
	b = appendText(append(b, `,"actor_type":`...), e.ActorType)
	b = appendText(append(b, `,"acting_for":`...), e.ActingFor)
	b = appendText(append(b, `,"schema_version":`...), e.SchemaVersion)
	b = appendText(append(b, `,"cdc_source":`...), e.CDCSource)
	b = appendTexts(append(b, `,"updated_fields":`...), e.UpdatedFields)
	b = appendTime(append(b, `,"commit_time":`...), e.CommitTime)
	b = append(e.LSN.append(append(b, `,"lsn":"`...)), '"')
	b = appendRaw(append(b, `,"trace_context":`...), orDefault(e.TraceContext, "null"))
	if len(e.UnchangedFields) > 0 {
		b = appendTexts(append(b, `,"unchanged_fields":`...), e.UnchangedFields)
	}
	return append(b, '}'), nil
}

func appendUUID(b []byte, id fmt.Stringer) []byte {
	return append(append(append(b, '"'), id.String()...), '"')
}

// appendString quotes a text. What needs no escapes, which is nearly all, is copied.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendEscaped(b, s)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

func appendEscaped(b []byte, s string) []byte {
	buf := bytes.NewBuffer(b)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string has nothing that fails
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

func appendText(b []byte, s *string) []byte {
	if s == nil {
		return append(b, "null"...)
	}
	return appendString(b, *s)
}

func appendTexts(b []byte, all []string) []byte {
	if all == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, s := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

func appendInt(b []byte, n *int64) []byte {
	if n == nil {
		return append(b, "null"...)
	}
	return strconv.AppendInt(b, *n, 10)
}

func appendTime(b []byte, t Time) []byte {
	if time.Time(t).IsZero() {
		return append(b, "null"...)
	}
	return append(time.Time(t).UTC().AppendFormat(append(b, '"'), timeLayout), '"')
}

// appendRaw copies valid JSON without the white space between its tokens.
func appendRaw(b []byte, raw json.RawMessage) []byte {
	for len(raw) > 0 {
		quote := bytes.IndexByte(raw, '"')
		if quote < 0 {
			return appendTokens(b, raw)
		}
		b = appendTokens(b, raw[:quote])
		end := quote + 1
		for {
			n := bytes.IndexByte(raw[end:], '"')
			if n < 0 { // it would not be valid
				return append(b, raw[quote:]...)
			}
			if end += n + 1; !escaped(raw[quote+1 : end-1]) {
				break
			}
		}
		b, raw = append(b, raw[quote:end]...), raw[end:]
	}
	return b
}

// escaped says that a text ends in an odd number of backslashes: what follows it is a part of it.
func escaped(s []byte) bool { return (len(s)-len(bytes.TrimRight(s, `\`)))%2 == 1 }

func appendTokens(b, raw []byte) []byte {
	for _, c := range raw {
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			b = append(b, c)
		}
	}
	return b
}
