package event

import (
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Outcome is what a delivery left behind, after a success or a failure. It is recorded as the output of the delivery's
// job, so it is short and holds no secret.
type Outcome struct {
	// ResponseStatus is the HTTP status, 0 when there was no response.
	ResponseStatus int `json:"status,omitempty"`
	// ResponseBody is the beginning of the response, see Excerpt.
	ResponseBody string `json:"body,omitempty"`
	// DurationMS is how long the call took, in milliseconds.
	DurationMS int64 `json:"duration_ms"`
	// DuplicateOf is the delivery whose call stands for this one's: dedup has dropped this one, nothing was sent.
	DuplicateOf *uuid.UUID `json:"duplicate_of,omitempty"`
	// Cached says that the result is an earlier delivery's, kept by the result cache: nothing was sent.
	Cached bool `json:"cached,omitempty"`
}

// excerptBytes bounds Excerpt's result.
const excerptBytes = 1 << 10

// Excerpt is the first kilobyte of a response as text that PostgreSQL's jsonb stores: valid UTF-8 without NUL. What is
// not becomes U+FFFD.
func Excerpt(body []byte) string {
	cut := len(body) > excerptBytes
	s := strings.ToValidUTF8(string(body[:min(len(body), excerptBytes)]), "\uFFFD")
	s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	if !cut && len(s) <= excerptBytes {
		return s
	}
	end := min(len(s), excerptBytes)
	for end < len(s) && !utf8.RuneStart(s[end]) {
		end--
	}
	return strings.TrimSuffix(s[:end], "\uFFFD") // a character that the cut split
}
