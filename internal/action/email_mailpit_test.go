package action

import (
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/uuid"
)

func mailerOf(t *testing.T, section string) *Mailer {
	t.Helper()
	vars := map[string]string{"SMTP_USER": "weir", "SMTP_PASSWORD": "hunter2", "WRONG": "hunter3"}
	var cfg SMTP
	if err := yaml.NewDecoder(strings.NewReader(section), yaml.Strict()).DecodeContext(withEnv(vars), &cfg); err != nil {
		t.Fatal(err)
	}
	return NewMailer(&cfg)
}

func email(t *testing.T, m *Mailer, text string) Action {
	t.Helper()
	return mustDecode(t, text).Bind(Deps{Mailer: m, Logger: slog.New(slog.DiscardHandler)})
}

const confirmation = `{type: email, to: "jane@example.org", subject: "Order {{ status }}", body_template: "Thank you."}`

// Success, a failure that is retried and one that is final, against a real server.
func TestEmailAtARealServer(t *testing.T) {
	t.Parallel()
	m := newMailpit(t, "--smtp-require-starttls", "--enable-chaos")
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	mailer := mailerOf(t, m.section(credentials+", ca_file: "+m.ca))

	t.Run("arrives", func(t *testing.T) {
		call := callFor(t, order)
		out, err := email(t, mailer, `
type: email
to: ["Käthe {{ status }} <kaethe@example.org>", '"Doe, Jane" <jane@bücher.example>']
cc: 'joe@example.org, {{ status }}@example.org, {{ "" }}'
reply_to: sales@example.org
subject: "Bestätigung {{ total }} {{ status }} – mit einem Betreff, der länger als eine Zeile ist und Zeichen wie €, ß und 漢字 hat"
body_template: "Zeile 1\n.\n..Zeile {{ total }}\nÄ {{ note }}\n"
html_template: "<p>{{ note }}</p>"
`).Do(t.Context(), call)
		if err != nil || out.ResponseStatus != 250 || out.ResponseBody == "" {
			t.Fatalf("%+v, %v", out, err)
		}
		const id = "@mail.example.org"
		got := m.mails(t, call.DeliveryID.String()+id)
		if len(got) != 1 {
			t.Fatalf("%d mails with the delivery's Message-ID", len(got))
		}
		mail := got[0]
		if want := "Bestätigung 100.10 shipped – mit einem Betreff, der länger als eine Zeile ist und Zeichen wie €, ß und 漢字 hat"; mail.Subject != want {
			t.Errorf("subject %q, want %q", mail.Subject, want)
		}
		if mail.From != (party{"Weir am Fluß", "weir@mail.example.org"}) {
			t.Errorf("from %+v", mail.From)
		}
		for name, pair := range map[string][2][]party{
			"to":       {mail.To, {{"Käthe shipped", "kaethe@example.org"}, {"Doe, Jane", "jane@xn--bcher-kva.example"}}},
			"cc":       {mail.Cc, {{"", "joe@example.org"}, {"", "shipped@example.org"}}},
			"reply_to": {mail.ReplyTo, {{"", "sales@example.org"}}},
		} {
			if !reflect.DeepEqual(pair[0], pair[1]) {
				t.Errorf("%s: %+v, want %+v", name, pair[0], pair[1])
			}
		}
		lines := func(s string) string { return strings.ReplaceAll(strings.TrimRight(s, "\r\n"), "\r\n", "\n") }
		if want := "Zeile 1\n.\n..Zeile 100.10\nÄ a \"b\"\nX: {{ total }} <&>"; lines(mail.Text) != want {
			t.Errorf("text %q, want %q", mail.Text, want)
		}
		if want := "<p>a &#34;b&#34;\nX: {{ total }} &lt;&amp;&gt;</p>"; lines(mail.HTML) != want {
			t.Errorf("HTML %q, want %q", mail.HTML, want)
		}
		h := mail.Headers
		if !strings.HasPrefix(strings.Join(h["Content-Type"], ""), "multipart/alternative") || h["Auto-Submitted"][0] != "auto-generated" ||
			h["Message-Id"][0] != "<"+call.DeliveryID.String()+id+">" || h["User-Agent"] != nil || h["X-Mailer"] != nil {
			t.Errorf("headers %v", h)
		}
		if date, err := time.Parse(time.RFC1123Z, h["Date"][0]); err != nil || time.Since(date).Abs() > time.Minute {
			t.Errorf("date %v, %v", date, err)
		}
	})
	t.Run("one part", func(t *testing.T) {
		for kind, part := range map[string]string{"text/plain": "body_template", "text/html": "html_template"} {
			call := callFor(t, order)
			call.DeliveryID = uuid.New()
			text := "{type: email, to: jane@example.org, subject: a, " + part + ": \"<b>{{ status }}</b>\"}"
			if _, err := email(t, mailer, text).Do(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			got := m.mails(t, call.DeliveryID.String()+"@mail.example.org")
			if len(got) != 1 || got[0].Headers["Content-Type"][0] != kind+"; charset=UTF-8" {
				t.Errorf("%s: %+v", part, got)
			}
		}
	})
	for name, section := range map[string]string{
		"an unknown authority": credentials,
		"a wrong password":     ", username_env: SMTP_USER, password_env: WRONG, ca_file: " + m.ca,
		"no credentials":       ", tls: none",
	} {
		t.Run(name, func(t *testing.T) {
			call := callFor(t, order)
			call.DeliveryID = uuid.New()
			mailer := mailerOf(t, m.section(section))
			out, err := email(t, mailer, confirmation).Do(t.Context(), call)
			code := map[string]string{"an unknown authority": "tls", "a wrong password": "smtp_535", "no credentials": "smtp_530"}[name]
			if e := wantError(t, err, ClassRetry, code); !e.Sick || strings.Contains(e.Error(), "hunter") || mailer.Trouble() == "" {
				t.Errorf("%v, trouble %q", e, mailer.Trouble())
			}
			if strings.HasPrefix(code, "smtp_") && code != "smtp_"+itoa(out.ResponseStatus) {
				t.Errorf("outcome %+v", out)
			}
			if n := len(m.mails(t, call.DeliveryID.String()+"@mail.example.org")); n != 0 {
				t.Errorf("%d mails", n)
			}
		})
	}
	t.Run("refusals", func(t *testing.T) { refusals(t, m, mailer) })
}

func refusals(t *testing.T, m *mailpit, mailer *Mailer) {
	t.Helper()
	for _, tt := range []struct {
		chaos string
		class Class
		code  string
		sick  bool
	}{
		{`{"Sender": {"ErrorCode": 451, "Probability": 100}}`, ClassRetry, "smtp_451", true},
		{`{"Sender": {"ErrorCode": 550, "Probability": 100}}`, ClassFinal, "smtp_550", false},
		{`{"Recipient": {"ErrorCode": 450, "Probability": 100}}`, ClassRetry, "smtp_450", false},
		{`{"Recipient": {"ErrorCode": 550, "Probability": 100}}`, ClassFinal, "smtp_550", false},
		{`{"Authentication": {"ErrorCode": 535, "Probability": 100}}`, ClassRetry, "smtp_535", true},
	} {
		m.chaos(t, tt.chaos)
		call := callFor(t, order)
		call.DeliveryID = uuid.New()
		out, err := email(t, mailer, confirmation).Do(t.Context(), call)
		if e := wantError(t, err, tt.class, tt.code); e.Sick != tt.sick || "smtp_"+itoa(out.ResponseStatus) != tt.code || out.ResponseBody == "" {
			t.Errorf("%s: %v, sick %t, outcome %+v", tt.chaos, e, e.Sick, out)
		}
		if (mailer.Trouble() != "") != tt.sick {
			t.Errorf("%s: trouble %q", tt.chaos, mailer.Trouble())
		}
		m.chaos(t, `{}`)
		if _, err := email(t, mailer, confirmation).Do(t.Context(), call); err != nil {
			t.Errorf("after %s: %v", tt.chaos, err)
		}
		if n := len(m.mails(t, call.DeliveryID.String()+"@mail.example.org")); n != 1 {
			t.Errorf("after %s: %d mails", tt.chaos, n)
		}
		if mailer.Trouble() != "" {
			t.Errorf("trouble after success: %q", mailer.Trouble())
		}
	}
}

func TestEmailOverTLSFromTheStart(t *testing.T) {
	t.Parallel()
	m := newMailpit(t, "--smtp-require-tls")
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	call := callFor(t, order)
	mailer := mailerOf(t, m.section(", tls: tls, ca_file: "+m.ca+credentials))
	if _, err := email(t, mailer, confirmation).Do(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if n := len(m.mails(t, call.DeliveryID.String()+"@mail.example.org")); n != 1 {
		t.Errorf("%d mails", n)
	}
	_, err := email(t, mailerOf(t, m.section(", tls: tls")), confirmation).Do(t.Context(), call)
	if e := wantError(t, err, ClassRetry, "tls"); !e.Sick {
		t.Errorf("%v is not the server's fault", e)
	}
}
