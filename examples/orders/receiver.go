package orders

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// maxBody bounds what the receiver reads, in bytes. Weir sends what an application put into one row.
const maxBody = 1 << 20

// Request is a webhook as the receiver saw it.
type Request struct {
	ID     string // webhook-id: the same for every attempt of a delivery
	Path   string
	Body   []byte
	Status int   // what was answered
	Err    error // why a signature was refused; nil when both are valid
	Repeat bool  // a delivery that had been accepted before; it was dropped
}

// Accepted says that the delivery was verified, new, and answered with success.
func (r Request) Accepted() bool {
	return r.Err == nil && !r.Repeat && r.Status == http.StatusNoContent
}

// ReceiverOptions describe a Receiver.
type ReceiverOptions struct {
	// Secret is what the webhooks are signed with: whsec_ and base64, or any other text.
	Secret string
	// Notify hears of every request, one at a time and before it is answered. nil: nobody does.
	Notify func(Request)
	// Forget makes the receiver answer the n-th delivery that it accepts as it should and then not remember it: to see
	// that whoever counts notices. 0: none.
	Forget int
}

// Receiver is an HTTP handler for the webhooks of weir.yaml. It refuses what is not signed, drops repeats by their id,
// and keeps what it accepted. Safe for concurrent use.
type Receiver struct {
	opts     ReceiverOptions
	key      []byte // of the secret
	standard *standardwebhooks.Webhook

	mu       sync.Mutex // guards the rest, and Notify
	answered map[string]bool
	accepted []Request
}

// NewReceiver makes a receiver. It refuses a secret that is no secret.
func NewReceiver(o ReceiverOptions) (*Receiver, error) {
	key, err := keyOf(o.Secret)
	if err != nil {
		return nil, err
	}
	standard, err := standardwebhooks.NewWebhookRaw(key)
	if err != nil {
		return nil, fmt.Errorf("signing secret: %w", err)
	}
	return &Receiver{opts: o, key: key, standard: standard, answered: map[string]bool{}}, nil
}

// Accepted returns what was accepted, each delivery once, in the order of arrival.
func (r *Receiver) Accepted() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.accepted)
}

// ServeHTTP answers 204 to a delivery that is accepted or repeated, 401 to one with a wrong signature, and 500 to
// everything on PathWarehouse.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodPost || !slices.Contains([]string{PathCreated, PathShipped, PathWarehouse}, req.URL.Path) {
		http.NotFound(w, req)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		status := http.StatusBadRequest
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), status)
		return
	}
	got := Request{
		ID: req.Header.Get(standardwebhooks.HeaderWebhookID), Path: req.URL.Path, Body: body,
		Err: r.verify(req.Header, body),
	}
	got = r.take(got)
	if got.Err != nil {
		http.Error(w, got.Err.Error(), got.Status)
		return
	}
	w.WriteHeader(got.Status)
}

// verify checks both signatures. One would do; the example shows both.
func (r *Receiver) verify(h http.Header, body []byte) error {
	if err := r.standard.Verify(body, h); err != nil {
		return fmt.Errorf("webhook-signature: %w", err)
	}
	if err := verifyFraiseQL(r.key, h.Get(headerFraiseQL), body); err != nil {
		return fmt.Errorf("%s: %w", strings.ToLower(headerFraiseQL), err)
	}
	return nil
}

// take decides about a request and remembers it, before the answer leaves: who has the answer may rely on it.
func (r *Receiver) take(got Request) Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case got.Err != nil:
		got.Status = http.StatusUnauthorized
	case got.Path == PathWarehouse:
		got.Status = http.StatusInternalServerError
	default:
		got.Status = http.StatusNoContent
		got.Repeat = r.answered[got.ID]
		r.answered[got.ID] = true
	}
	if got.Accepted() && len(r.answered) == r.opts.Forget {
		return got
	}
	if got.Accepted() {
		r.accepted = append(r.accepted, got)
	}
	if r.opts.Notify != nil {
		r.opts.Notify(got)
	}
	return got
}
