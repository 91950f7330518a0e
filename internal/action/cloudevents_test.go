package action

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

func TestWebhookCloudEventStructured(t *testing.T) {
	t.Parallel()
	call := callFor(t, order)
	got, _ := deliver(t, ", cloudevents: structured, signing_secret_env: ERP_SECRET", call)
	verify(t, "new-secret", got)
	if ct := got.header.Get("Content-Type"); ct != "application/cloudevents+json; charset=utf-8" {
		t.Errorf("Content-Type is %s", ct)
	}
	want := `{"specversion":"1.0","id":"` + call.DeliveryID.String() + `","source":"/weir/order-shipped","type":"Order.update",` +
		`"subject":"` + order.EntityID + `","time":"2026-01-02T03:04:05.6789Z","datacontenttype":"application/json","data":` +
		string(call.Payload) + `}`
	if string(got.body) != want {
		t.Errorf("got  %s\nwant %s", got.body, want)
	}

	text, _ := deliver(t, `, cloudevents: structured, headers: {Content-Type: text/plain}, body_template: "<{{ status }}>"`, call)
	if !strings.HasSuffix(string(text.body), `"datacontenttype":"text/plain","data":"<shipped>"}`) {
		t.Errorf("got %s", text.body)
	}
}

func TestWebhookCloudEventBinary(t *testing.T) {
	t.Parallel()
	e := order
	e.EntityType, e.EntityID = "Größe \"%", ""
	call := callFor(t, e)
	got, _ := deliver(t, ", cloudevents: binary, signing_secret_env: ERP_SECRET", call)
	verify(t, "new-secret", got)
	for name, want := range map[string]string{
		"ce-specversion": "1.0", "ce-id": call.DeliveryID.String(), "ce-source": "/weir/order-shipped",
		"ce-type": "Gr%C3%B6%C3%9Fe%20%22%25.update", "ce-time": "2026-01-02T03:04:05.6789Z", "Content-Type": "application/json",
	} {
		if v := got.header.Get(name); v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	if _, ok := got.header["Ce-Subject"]; ok || !bytes.Equal(got.body, call.Payload) {
		t.Errorf("got %v %s", got.header, got.body)
	}
}

func TestWebhookHeadersAreASCII(t *testing.T) {
	t.Parallel()
	if got := headerEscape("a\r\nb\xff€😀"); !regexp.MustCompile(`^[\x21-\x7e]*$`).MatchString(got) {
		t.Errorf("got %q", got)
	}
}
