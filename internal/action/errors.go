package action

import (
	"errors"
	"strings"
	"time"
)

// Class says what is to become of a delivery that failed.
type Class int

// The classes. The zero value is the usual one.
const (
	ClassRetry Class = iota // try again, by the observer's retry policy
	ClassLater              // the receiver asked for a pause of Error.After; that alone costs no attempt for a while
	ClassFinal              // another attempt would end the same way
)

// String is for logs.
func (c Class) String() string {
	switch c {
	case ClassRetry:
		return "retry"
	case ClassLater:
		return "later"
	case ClassFinal:
		return "final"
	default:
		return "unknown"
	}
}

// Error is why a call failed. Its text is one short line that holds neither secrets nor a URL's path.
type Error struct {
	Class Class
	// After is the pause of ClassLater, more than 0 and at most an hour.
	After time.Duration
	// Code is a short word for machines: "status_404", "timeout", "blocked_address", "template", …
	Code string
	// Sick says that the endpoint is to blame and not what was sent: a transport error, a timeout, 429, 5xx. Such failures
	// open its circuit breaker.
	Sick bool
	Err  error
}

// codeTemplate is the Code of what could not be rendered: the same event renders the same way again.
const codeTemplate = "template"

// CodeGone is the Code of a target that answered 410 Gone, where that is final: the action is disabled for it.
const CodeGone = "gone"

// maxText bounds an error's text, in bytes: it is stored with each attempt.
const maxText = 300

// Error is the text, on one line, valid UTF-8 and at most 300 bytes long.
func (e *Error) Error() string {
	text := strings.ToValidUTF8(e.Err.Error(), "\uFFFD")
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }), " ")
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText-len("…")], "") + "…"
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Final is an error that another attempt would not mend.
func Final(code string, err error) error { return &Error{Class: ClassFinal, Code: code, Err: err} }

// Later is an error of a receiver that asked for a pause.
func Later(code string, after time.Duration, err error) error {
	return &Error{Class: ClassLater, Code: code, After: after, Err: err}
}

// Retry is an error that may be gone at the next attempt.
func Retry(code string, err error) error { return &Error{Class: ClassRetry, Code: code, Err: err} }

// sick marks an *Error as the endpoint's fault, see Error.Sick.
func sick(err error) error {
	var e *Error
	if errors.As(err, &e) {
		e.Sick = true
	}
	return err
}
