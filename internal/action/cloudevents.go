package action

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// The values of cloudevents.
const (
	cloudEventsOff        = "off"
	cloudEventsStructured = "structured"
	cloudEventsBinary     = "binary"
)

// cloudEvent is the envelope of CloudEvents 1.0. Its id is the delivery's: with the source it is unique, it is the same
// for every attempt, and it tells apart events that an application gave the same id.
type cloudEvent struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`            // /weir/<observer>
	Type            string          `json:"type"`              // Order.update
	Subject         string          `json:"subject,omitempty"` // the entity's id
	Time            string          `json:"time,omitempty"`
	DataContentType string          `json:"datacontenttype,omitempty"`
	Data            json.RawMessage `json:"data,omitempty"`
}

// asCloudEvent turns the request into a CloudEvent, in the form that is configured, and returns the body to send.
func (w *Webhook) asCloudEvent(h http.Header, call Call, body []byte) ([]byte, error) {
	if w.CloudEvents == "" || w.CloudEvents == cloudEventsOff {
		return body, nil
	}
	e := call.Event
	ce := cloudEvent{
		SpecVersion: "1.0",
		ID:          call.DeliveryID.String(),
		Source:      "/weir/" + url.PathEscape(call.Observer),
		Type:        e.EntityType + "." + strings.ToLower(string(e.Type)),
		Subject:     e.EntityID,
		Time:        e.Timestamp.String(),
	}
	if w.CloudEvents == cloudEventsBinary {
		ce.setHeaders(h)
		return body, nil
	}
	if err := ce.setData(h.Get("Content-Type"), body); err != nil {
		return nil, err
	}
	h.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	return marshal(ce)
}

// setData puts the body into the envelope: JSON as it is, digit by digit, anything else as a string.
func (ce *cloudEvent) setData(contentType string, body []byte) error {
	if len(body) == 0 {
		return nil
	}
	ce.DataContentType, ce.Data = contentType, body
	if isJSON(contentType) {
		return nil
	}
	var err error
	ce.Data, err = marshal(string(body))
	return err
}

func (ce *cloudEvent) setHeaders(h http.Header) {
	for name, value := range map[string]string{
		"ce-specversion": ce.SpecVersion, "ce-id": ce.ID, "ce-source": ce.Source, "ce-type": ce.Type,
		"ce-subject": ce.Subject, "ce-time": ce.Time,
	} {
		if value != "" {
			h.Set(name, headerEscape(value))
		}
	}
}

// headerEscape percent-encodes what CloudEvents' HTTP binding wants encoded: space, the double quote, the percent sign
// and everything that is not printable ASCII, as UTF-8.
func headerEscape(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if r > ' ' && r < 0x7f && r != '"' && r != '%' {
			b.WriteRune(r)
			continue
		}
		for _, c := range utf8.AppendRune(nil, r) {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
