package action

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	twilioAccount = "AC0123456789abcdef0123456789abcdef"
	twilioToken   = "hunter2-token"
	twilioBasic   = "Basic QUMwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjpodW50ZXIyLXRva2Vu"
)

// twilioServer answers as Twilio does, and complains of a request that is not as documented.
func twilioServer(t *testing.T, answer http.HandlerFunc) (string, <-chan url.Values) {
	t.Helper()
	forms := make(chan url.Values, 16)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /2010-04-01/Accounts/"+twilioAccount+"/Messages.json", func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		if !ok || user != twilioAccount || password != twilioToken {
			t.Errorf("authenticated as %q", user)
		}
		if ct := r.Header.Get("Content-Type"); ct != "application/x-www-form-urlencoded" {
			t.Errorf("Content-Type is %s", ct)
		}
		if r.URL.RawQuery != "" {
			t.Errorf("query %s", r.URL.RawQuery)
		}
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		forms <- r.PostForm
		answer(w, r)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL, forms
}

// created is Twilio's answer to a message that it has taken.
func created(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"account_sid": %q, "api_version": "2010-04-01", "body": %q, "date_created": "Thu, 24 Aug 2023 05:01:45 +0000",
		"date_sent": null, "date_updated": "Thu, 24 Aug 2023 05:01:45 +0000", "direction": "outbound-api", "error_code": null,
		"error_message": null, "from": "+15557122661", "num_media": "0", "num_segments": "1", "price": null, "price_unit": null,
		"messaging_service_sid": null, "sid": "SMaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "status": "queued",
		"subresource_uris": {"media": "/2010-04-01/Accounts/AC/Messages/SM/Media.json"}, "to": %q, "uri": "/2010-04-01/Accounts/AC/Messages/SM.json"}`,
		twilioAccount, r.PostForm.Get("Body"), r.PostForm.Get("To"))
}

func smsAction(t *testing.T, base, keys string) Action {
	t.Helper()
	ctx := withEnv(map[string]string{"TWILIO_ACCOUNT": twilioAccount, "TWILIO_TOKEN": twilioToken})
	c, err := decodeIn(ctx, "{type: sms, account_env: TWILIO_ACCOUNT, token_env: TWILIO_TOKEN, base_url: \""+base+"\""+keys+"}")
	if err != nil {
		t.Fatal(err)
	}
	return c.Bind(Deps{HTTP: client(t, "127.0.0.0/8")})
}

const smsKeys = `, to: "+15551234567", from: "+15557122661"`

func TestSMSRequest(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		keys string
		want url.Values
	}{
		"default": {smsKeys, url.Values{
			"To": {"+15551234567"}, "From": {"+15557122661"}, "Body": {"Event: UPDATE on Order (ID: " + order.EntityID + ")"},
		}},
		"templates": {
			`, to: "+1555{{ total }}", from: "{{ status }}", provider: twilio, message_template: "{{ note }} & {{ big }}="`,
			url.Values{"To": {"+1555100.10"}, "From": {"shipped"}, "Body": {"a \"b\"\r\nX: {{ total }} <&> & 9007199254740993123="}},
		},
		"messaging service": {`, to: whatsapp:+15551234567, from: MG0123456789abcdef0123456789abcdef, message_template: ü`, url.Values{
			"To": {"whatsapp:+15551234567"}, "MessagingServiceSid": {"MG0123456789abcdef0123456789abcdef"}, "Body": {"ü"},
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base, forms := twilioServer(t, created)
			a := smsAction(t, base+"/", tt.keys)
			out, err := a.Do(t.Context(), callFor(t, order))
			if err != nil {
				t.Fatal(err)
			}
			if got := <-forms; got.Encode() != tt.want.Encode() {
				t.Errorf("got  %v\nwant %v", got, tt.want)
			}
			// The outcome tells how to find the message, and nobody's number.
			if out.ResponseStatus != 201 || out.ResponseBody != `{"sid":"SMaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","status":"queued"}` {
				t.Errorf("outcome %+v", out)
			}
			p := parts(t, a, callFor(t, order))
			if p["url"] != base+"/2010-04-01/Accounts/[redacted]/Messages.json" || p["to"] != tt.want.Get("To") ||
				p["body"] != tt.want.Get("Body") || p["from"]+p["messaging service"] != tt.want.Get("From")+tt.want.Get("MessagingServiceSid") {
				t.Errorf("preview %v", p)
			}
		})
	}
}

func TestSMSAnswers(t *testing.T) {
	t.Parallel()
	refused := func(status, code int, message string) string {
		return fmt.Sprintf(`{"code": %d, "message": %q, "more_info": "https://www.twilio.com/docs/errors/%d", "status": %d}`,
			code, message, code, status)
	}
	tests := []struct {
		status     int
		body       string
		retryAfter string
		class      Class
		after      time.Duration
		sick       bool
		says       string
	}{
		{
			status: 400, body: refused(400, 21211, "The 'To' number +15551234567 is not a valid phone number."), class: ClassFinal,
			says: "Twilio's error 21211: The 'To' number [redacted] is not a valid phone number.",
		},
		{status: 400, body: refused(400, 21610, "Attempt to send to unsubscribed recipient"), class: ClassFinal, says: "21610: Attempt"},
		{status: 400, body: refused(400, 21614, "'To' number 1 (555) 123-4567 is not a valid mobile number"), class: ClassFinal, says: "[number] is"},
		{status: 400, body: refused(400, 21611, "Queue is full"), class: ClassLater, after: time.Minute, sick: true, says: "21611"},
		{status: 401, body: refused(401, 20003, "Authenticate"), class: ClassRetry, says: "20003: Authenticate"},
		{status: 403, body: refused(403, 20403, "Forbidden"), class: ClassRetry, says: "20403"},
		{
			status: 404, body: refused(404, 20404, "The requested resource /2010-04-01/Accounts/"+twilioAccount+"/Messages.json was not found"),
			class: ClassRetry, says: "/2010-04-01/Accounts/[redacted]/Messages.json",
		},
		{status: 400, body: "Authorization: " + twilioBasic, class: ClassFinal},
		{status: 429, body: refused(429, 20429, "Too Many Requests"), class: ClassLater, after: time.Minute, sick: true, says: "20429"},
		{status: 429, body: "", retryAfter: "5", class: ClassLater, after: 5 * time.Second, sick: true},
		{status: 500, body: refused(500, 20500, "Internal Server Error"), class: ClassRetry, sick: true, says: "20500"},
		{status: 503, body: "<html>", class: ClassRetry, sick: true},
		{status: 503, body: "<html>", retryAfter: "5", class: ClassLater, after: 5 * time.Second, sick: true},
		{status: 302, body: "", class: ClassFinal},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.status, tt.says), func(t *testing.T) {
			t.Parallel()
			base, _ := twilioServer(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", tt.retryAfter)
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			})
			out, err := smsAction(t, base, smsKeys).Do(t.Context(), callFor(t, order))
			e := wantError(t, err, tt.class, fmt.Sprint("status_", tt.status))
			if e.After != tt.after || e.Sick != tt.sick || out.ResponseStatus != tt.status || !strings.Contains(e.Error(), tt.says) {
				t.Errorf("got %+v, outcome %+v", e, out)
			}
			for _, secret := range []string{"hunter2", twilioAccount, "QUMwMTIz", "5551234567", "123-4567", "15557122661"} {
				if said := fmt.Sprint(e, out); strings.Contains(said, secret) {
					t.Errorf("%s leaked: %s", secret, said)
				}
			}
		})
	}
}

// Also an address that is no number is somebody's.
func TestSMSLeaksNoRecipient(t *testing.T) {
	t.Parallel()
	base, _ := twilioServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"code": 21211, "message": "'To' is not valid: %s", "status": 400}`, r.PostForm.Get("To"))
	})
	out, err := smsAction(t, base, ", to: jane@example.org, from: b").Do(t.Context(), callFor(t, order))
	e := wantError(t, err, ClassFinal, "status_400")
	if said := fmt.Sprint(e, out); strings.Contains(said, "jane") || !strings.Contains(said, "is not valid: [redacted]") {
		t.Errorf("said %s", said)
	}
}

func TestSMSTemplateErrorsAreFinal(t *testing.T) {
	t.Parallel()
	base, forms := twilioServer(t, created)
	for _, keys := range []string{
		`, to: "{{ tenant_id }}", from: a`, `, to: "{{ phone }}", from: a`, `, to: a, from: "{{ tenant_id }}"`,
		`, to: a, from: b, message_template: "{{ tenant_id }}"`,
	} {
		_, err := smsAction(t, base, keys).Do(t.Context(), callFor(t, order))
		_ = wantError(t, err, ClassFinal, "template")
	}
	if len(forms) != 0 {
		t.Error("a request was sent")
	}
}

func TestSMSTransport(t *testing.T) {
	t.Parallel()
	hanging, _ := receiver(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	timesOut(t, smsAction(t, hanging, smsKeys))
	_, err := smsAction(t, "http://127.0.0.1:1", smsKeys).Do(t.Context(), callFor(t, order))
	if e := wantError(t, err, ClassRetry, "connect"); strings.Contains(e.Error(), "Accounts") {
		t.Errorf("leaked: %s", e)
	}
	// The base is an observer's target like any other: a private one is refused unless it is listed.
	_, err = smsAction(t, "http://[::1]:1", smsKeys).Do(t.Context(), callFor(t, order))
	_ = wantError(t, err, ClassFinal, "blocked_address")
}

func TestSMSPreviewWithoutTheEnvironment(t *testing.T) {
	t.Parallel()
	c, err := decodeIn(t.Context(), `{type: sms, account_env: SID, token_env: TOKEN, to: a, from: b}`)
	if err != nil {
		t.Fatal(err)
	}
	p := parts(t, c.Bind(Deps{}), callFor(t, order))
	if p["url"] != "https://api.twilio.com/2010-04-01/Accounts/[not known: $SID is not set]/Messages.json" {
		t.Errorf("got %v", p)
	}
}
