package action

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

// TestCloudEventsForTheirSDK: a receiver with the official SDK gets from the real request, in both forms, a valid
// event with the attributes that the documentation promises and the digits that were committed.
func TestCloudEventsForTheirSDK(t *testing.T) {
	t.Parallel()
	odd := order
	odd.EntityType, odd.EntityID = "Größe \"%", "a b/€"
	call, oddCall := callFor(t, order), callFor(t, odd)
	for _, form := range []string{cloudEventsStructured, cloudEventsBinary} {
		for name, tt := range map[string]struct {
			keys, contentType, data string
			call                    Call
		}{
			"the whole event": {"", "application/json", string(call.Payload), call},
			"digits":          {`, body_template: '{"total": {{ total }}, "big": {{ big }}}'`, "application/json", `{"total": 100.10, "big": 9007199254740993123}`, call},
			"text":            {`, headers: {Content-Type: text/plain}, body_template: "<{{ status }}> {{ note }}"`, "text/plain", "<shipped> a \"b\"\r\nX: {{ total }} <&>", call},
			"signed":          {", signing_secret_env: ERP_SECRET", "application/json", string(call.Payload), call},
			"odd names":       {"", "application/json", string(oddCall.Payload), oddCall},
			"text like JSON":  {`, headers: {Content-Type: text/plain}, body_template: "{ {{ total }}"`, "text/plain", "{ 100.10", call},
			"another JSON":    {`, headers: {Content-Type: application/vnd.api+json}`, "application/vnd.api+json", string(call.Payload), call},
			"a method of PUT": {", method: PUT", "application/json", string(call.Payload), call},
			"null":            {`, body_template: "null"`, "application/json", "null", call},
		} {
			if form == cloudEventsStructured && name == "another JSON" {
				continue // this SDK wants a string there, against section 3.1 of the JSON format: +json is JSON, too
			}
			t.Run(form+", "+name, func(t *testing.T) {
				t.Parallel()
				target, got := cloudEventReceiver(t)
				a := bind(t, `{type: webhook, url: "`+target+`", cloudevents: `+form+tt.keys+"}")
				if _, err := a.Do(t.Context(), callFor(t, *tt.call.Event)); err != nil {
					t.Fatal(err)
				}
				e := <-got
				if err := e.Validate(); err != nil {
					t.Errorf("not valid: %v", err)
				}
				want := map[string]string{
					"specversion": "1.0", "id": tt.call.DeliveryID.String(), "source": "/weir/order-shipped",
					"type": tt.call.Event.EntityType + ".update", "subject": tt.call.Event.EntityID,
					"time": "2026-01-02T03:04:05.6789Z", "datacontenttype": tt.contentType,
				}
				for key, value := range attributes(e, form == cloudEventsBinary) {
					if value != want[key] {
						t.Errorf("%s is %q, want %q", key, value, want[key])
					}
				}
				if data := string(e.Data()); data != tt.data && (form == cloudEventsBinary || data != compacted(tt.data)) {
					t.Errorf("data\n%s, want\n%s", e.Data(), tt.data)
				}
				if len(e.Extensions()) != 0 {
					t.Errorf("extensions %v", e.Extensions())
				}
			})
		}
	}
}

// compacted is JSON without space, as it is in an envelope.
func compacted(text string) string {
	var out bytes.Buffer
	if json.Compact(&out, []byte(text)) != nil {
		return text
	}
	return out.String()
}

// cloudEventReceiver reads each request with the SDK.
func cloudEventReceiver(t *testing.T) (string, <-chan *cloudevents.Event) {
	t.Helper()
	got := make(chan *cloudevents.Event, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, err := cehttp.NewEventFromHTTPRequest(r)
		if err != nil {
			t.Error(err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		got <- e
	}))
	t.Cleanup(srv.Close)
	return srv.URL, got
}

// attributes are an event's. The HTTP binding percent-encodes what stands in headers, which this SDK leaves to its caller.
func attributes(e *cloudevents.Event, encoded bool) map[string]string {
	all := map[string]string{
		"specversion": e.SpecVersion(), "id": e.ID(), "source": e.Source(), "type": e.Type(), "subject": e.Subject(),
		"time": e.Time().Format(time.RFC3339Nano), "datacontenttype": e.DataContentType(),
	}
	if encoded {
		for key, value := range all {
			if plain, err := url.PathUnescape(value); err == nil {
				all[key] = plain
			}
		}
	}
	return all
}
