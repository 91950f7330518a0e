package index

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// What one bulk request holds at most.
const (
	bulkBytes = 5 << 20
	bulkItems = 1000
)

// The waits between two tries while Elasticsearch is busy.
const (
	firstWait = 200 * time.Millisecond
	maxWait   = 15 * time.Second
)

// item is what became of one document of a bulk request.
type item struct {
	Status int    `json:"status"`
	Error  *fault `json:"error"`
}

// write sends entries by requests that are not too large. Events that could not be created are conflicts.
func (e *Elasticsearch) write(ctx context.Context, entries []*entry) (conflicts []*entry, refused []Refusal, err error) {
	for len(entries) > 0 {
		n, size := 0, 0
		for n < len(entries) && n < bulkItems && (n == 0 || size+len(entries[n].source) <= bulkBytes) {
			size += len(entries[n].source)
			n++
		}
		c, r, err := e.writeOne(ctx, entries[:n])
		conflicts, refused = append(conflicts, c...), append(refused, r...)
		if err != nil {
			return conflicts, refused, err
		}
		entries = entries[n:]
	}
	return conflicts, refused, nil
}

// writeOne makes a bulk request, and repeats it for what Elasticsearch was too busy to take, until the context ends.
func (e *Elasticsearch) writeOne(ctx context.Context, pending []*entry) (conflicts []*entry, refused []Refusal, err error) {
	for try := 0; ; try++ {
		items, err := e.bulk(ctx, pending)
		var wait time.Duration
		var s *statusError
		answered := errors.As(err, &s)
		switch {
		case err == nil:
			var found verdict
			found, err = judge(pending, items)
			conflicts, refused, pending = append(conflicts, found.conflicts...), append(refused, found.refused...), found.busy
			if err != nil || len(pending) == 0 {
				return conflicts, refused, err
			}
			err = fmt.Errorf("%d documents are not taken: %s", len(pending), found.why)
		case !answered || (s.Status != http.StatusRequestEntityTooLarge && !isBusy(s.Status)):
			return conflicts, refused, err
		case s.Status == http.StatusRequestEntityTooLarge:
			c, r, err := e.halve(ctx, pending, s)
			return append(conflicts, c...), append(refused, r...), err
		default:
			wait = s.After
		}
		e.link.metrics.retries.Inc()
		if pauseErr := pause(ctx, max(wait, backoff(try))); pauseErr != nil {
			return conflicts, refused, errors.Join(pauseErr, err)
		}
	}
}

// halve writes what was too large for one request by two.
func (e *Elasticsearch) halve(ctx context.Context, entries []*entry, s *statusError) ([]*entry, []Refusal, error) {
	if len(entries) == 1 {
		return nil, []Refusal{{*entries[0].doc, s.Error()}}, nil
	}
	half := len(entries) / 2
	conflicts, refused, err := e.writeOne(ctx, entries[:half])
	if err != nil {
		return conflicts, refused, err
	}
	c, r, err := e.writeOne(ctx, entries[half:])
	return append(conflicts, c...), append(refused, r...), err
}

func (e *Elasticsearch) bulk(ctx context.Context, entries []*entry) ([]item, error) {
	var body []byte
	for _, n := range entries {
		body = n.append(body)
	}
	return e.bulkRequest(ctx, body, len(entries))
}

func (e *Elasticsearch) bulkRequest(ctx context.Context, body []byte, n int) ([]item, error) {
	var answer struct {
		Items []map[string]item `json:"items"`
	}
	if err := e.send(ctx, http.MethodPost, "/_bulk", "application/x-ndjson", body, &answer); err != nil {
		return nil, err
	}
	items := make([]item, 0, n)
	for _, byOp := range answer.Items {
		for _, one := range byOp {
			items = append(items, one)
		}
	}
	if len(items) != n {
		return nil, fmt.Errorf("sent %d documents to Elasticsearch, got an answer about %d", n, len(items))
	}
	return items, nil
}

// verdict is what became of the documents of a request.
type verdict struct {
	conflicts, busy []*entry
	refused         []Refusal
	why             string // the last one is busy
}

// judge looks at every item. Its error is one that no document is to blame for: all the same, the others are judged.
func judge(entries []*entry, items []item) (v verdict, err error) {
	for i, one := range items {
		n := entries[i]
		switch {
		case one.Status < 300:
		case one.Status == http.StatusConflict:
			if n.doc.Outcome == nil { // else the same document is there, or a newer one
				v.conflicts = append(v.conflicts, n)
			}
		case isBusy(one.Status):
			v.busy, v.why = append(v.busy, n), one.Error.String()
		case blameless(one):
			err = fmt.Errorf("write %s to %s: %w", n.id, n.index, &statusError{Status: one.Status, Why: one.Error.String()})
		default:
			v.refused = append(v.refused, Refusal{*n.doc, one.Error.String()})
		}
	}
	return v, err
}

func isBusy(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
}

// blameless says that an item failed for what may be set right without a change to the document: the server's own trouble,
// missing rights, a blocked or missing index, or no room for one more shard (validation_exception).
func blameless(one item) bool {
	switch one.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return true
	default:
		return one.Status >= 500 || (one.Error != nil && one.Error.Type == "validation_exception")
	}
}

// backoff doubles with each try. Between half of it and all is waited, so that several workers do not come at once.
func backoff(try int) time.Duration {
	d := min(firstWait<<min(try, 10), maxWait)
	return d/2 + rand.N(d/2)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
