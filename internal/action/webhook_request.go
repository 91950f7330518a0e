package action

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/fraiseql/weir/internal/telemetry"
)

// message is a call as it was rendered: all but where it goes, and what depends on the moment of sending.
type message struct {
	header http.Header
	body   []byte
}

// request renders the call. Its errors are final: the same event renders the same way again.
func (w *Webhook) request(ctx context.Context, call Call, now time.Time) (*http.Request, error) {
	target, err := w.target.URL(call.Env)
	if err != nil {
		return nil, Final(codeTemplate, fmt.Errorf("url: %w", err))
	}
	m, err := w.render(call)
	if err != nil {
		return nil, err
	}
	telemetry.SetHeaders(m.header, trace.SpanContextFromContext(ctx), call.Event.TraceContext)
	m.header.Set(headerTimestamp, strconv.FormatInt(now.Unix(), 10))
	if w.signer != nil {
		w.signer.sign(m.header, call.DeliveryID.String(), now, m.body)
	}
	req, err := http.NewRequestWithContext(ctx, w.Method, target, bytes.NewReader(m.body))
	if err != nil {
		return nil, Final(codeTemplate, errors.New("url: it does not render to a URL"))
	}
	req.Header = m.header
	return req, nil
}

// render renders header and body.
func (w *Webhook) render(call Call) (message, error) {
	header, err := w.header(call)
	if err != nil {
		return message{}, Final(codeTemplate, err)
	}
	body, err := w.body(call, header.Get("Content-Type"))
	if err != nil {
		return message{}, Final(codeTemplate, err)
	}
	if body, err = w.asCloudEvent(header, call, body); err != nil {
		return message{}, Final("cloudevents", err)
	}
	header.Set(headerID, call.DeliveryID.String())
	if call.ReplayOf != uuid.Nil {
		header.Set(headerReplayOf, call.ReplayOf.String())
	}
	return message{header: header, body: body}, nil
}

// Preview is the request without what is made when it is sent, the time and the signatures.
func (w *Webhook) Preview(call Call) (Preview, error) {
	target, err := previewURL(w.target, w.URLEnv, call)
	if err != nil {
		return nil, Final(codeTemplate, fmt.Errorf("url: %w", err))
	}
	m, err := w.render(call)
	if err != nil {
		return nil, err
	}
	telemetry.SetHeaders(m.header, trace.SpanContext{}, call.Event.TraceContext)
	m.header.Set(headerTimestamp, whenSent)
	if w.signer != nil {
		m.header.Set(headerSignature, whenSent)
		m.header.Set(headerFraiseQL, whenSent)
	}
	p := Preview{{"method", w.Method}, {"url", target}}
	for _, name := range slices.Sorted(maps.Keys(m.header)) {
		value := strings.Join(m.header[name], ", ")
		if isCredential(name) {
			value = redacted
		}
		p = append(p, Part{"header " + name, value})
	}
	return append(p, Part{"body", string(m.body)}), nil
}

func (w *Webhook) header(call Call) (http.Header, error) {
	h := http.Header{"Content-Type": {jsonContent}, "User-Agent": {userAgent}}
	for name, tmpl := range w.Headers {
		value, err := tmpl.Header(call.Env)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", name, err)
		}
		h.Set(name, value)
	}
	return h, nil
}

// body renders the body. The default is the event as it is stored: what it was signed over and what was committed are
// the same bytes.
func (w *Webhook) body(call Call, contentType string) ([]byte, error) {
	switch {
	case w.BodyTemplate == nil && w.Method == http.MethodGet:
		return nil, nil
	case w.BodyTemplate == nil:
		return call.Payload, nil
	case !isJSON(contentType):
		text, err := w.BodyTemplate.Text(call.Env)
		if err != nil {
			return nil, fmt.Errorf("body_template: %w", err)
		}
		return []byte(text), nil
	}
	body, err := w.BodyTemplate.JSON(call.Env)
	if err != nil {
		return nil, fmt.Errorf("body_template: %w", err)
	}
	return body, nil
}

// isJSON says whether a Content-Type is JSON: application/json, or one that ends in +json.
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == jsonContent || strings.HasSuffix(media, "+json"))
}

// confidential is what the receiver may have learned from the request and would repeat: error pages often show the path.
func (w *Webhook) confidential(req *http.Request) []string {
	var secrets []string
	if !w.URLEnv.IsZero() {
		secrets = pieces(req.URL)
	}
	for name := range w.Headers {
		if isCredential(name) {
			value := req.Header.Get(name)
			secrets = append(append(secrets, value), strings.Fields(value)...)
		}
	}
	return secrets
}
