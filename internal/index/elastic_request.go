package index

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// statusError is an answer that is no success.
type statusError struct {
	Status int
	Why    string
	After  time.Duration // that the server asks to wait, 0 where it does not
}

// Error names the status and the server's reason.
func (s *statusError) Error() string {
	return fmt.Sprintf("Elasticsearch answers %d: %s", s.Status, s.Why)
}

// statusOf is the status of an answer that was no success, 0 of any other error.
func statusOf(err error) int {
	var s *statusError
	if errors.As(err, &s) {
		return s.Status
	}
	return 0
}

// fault is an error as Elasticsearch tells it.
type fault struct {
	Type     string `json:"type"`
	Reason   string `json:"reason"`
	CausedBy *fault `json:"caused_by"`
}

// maxReason bounds what is kept of a reason: it may repeat a document's field.
const maxReason = 300

// UnmarshalJSON reads the object, or the text that some errors are instead.
func (f *fault) UnmarshalJSON(raw []byte) error {
	type plain fault
	if err := json.Unmarshal(raw, (*plain)(f)); err == nil {
		return nil
	}
	return json.Unmarshal(raw, &f.Reason)
}

// String is the reason with its causes.
func (f *fault) String() string {
	text := ""
	for ; f != nil; f = f.CausedBy {
		if text != "" {
			text += "; caused by "
		}
		if f.Type != "" {
			text += f.Type + ": "
		}
		text += f.Reason
	}
	if short := []rune(text); len(short) > maxReason {
		text = string(short[:maxReason-1]) + "…"
	}
	return text
}

// ask makes a request with a JSON body, or with none, and reads the answer into out, or leaves it.
func (e *Elasticsearch) ask(ctx context.Context, method, path string, body, out any) error {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return err
		}
	}
	return e.send(ctx, method, path, "application/json", raw, out)
}

func (e *Elasticsearch) send(ctx context.Context, method, path, kind string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", kind)
	}
	res, err := e.client.Perform(req)
	if err != nil {
		return fmt.Errorf("ask Elasticsearch: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return refusal(res)
	}
	if out == nil {
		_, err = io.Copy(io.Discard, res.Body)
	} else {
		err = json.NewDecoder(res.Body).Decode(out)
	}
	if err != nil {
		return fmt.Errorf("read Elasticsearch's answer: %w", err)
	}
	return nil
}

// refusal is the error of an answer that is no success.
func refusal(res *http.Response) error {
	s := &statusError{Status: res.StatusCode, Why: http.StatusText(res.StatusCode)}
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
		s.After = time.Duration(seconds) * time.Second
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read Elasticsearch's answer %d: %w", res.StatusCode, err)
	}
	var told struct {
		Error *fault `json:"error"`
	}
	if json.Unmarshal(raw, &told) == nil && told.Error != nil {
		s.Why = told.Error.String()
	}
	return s
}
