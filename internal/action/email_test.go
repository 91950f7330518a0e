package action

import (
	"encoding/json"
	"mime"
	"net/mail"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func withData(t *testing.T, data map[string]any) Call {
	t.Helper()
	raw, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	e := order
	e.Data = raw
	return callFor(t, e)
}

// A value stays a value: it adds no recipient, no header and no second address, whatever it holds.
func TestMailInjection(t *testing.T) {
	t.Parallel()
	s := (&mailServer{}).start(t)
	mailer := s.mailer(t, "")
	const evil = "evil@example.net"
	values := []string{
		"a@example.org, " + evil, "a@example.org\r\nBcc: " + evil, "a@example.org\nBcc: " + evil, "a@example.org> <" + evil,
		"a@example.org>\r\nRCPT TO:<" + evil, "<a@example.org>, <" + evil + ">", "a@example.org; " + evil, "a@example.org " + evil,
		"x: a@example.org, " + evil + ";", "a@example.org (", "\"a@example.org", "a@example.org>,<" + evil, "a@example.org\x00",
	}
	for _, key := range []string{"to", "cc", "reply_to"} {
		for _, form := range []string{"{{ v }}", "Jane <{{ v }}>", "b@example.org, {{ v }}"} {
			text := `{type: email, to: "jane@example.org", ` + key + `: "` + form + `", subject: s, body_template: b}`
			if key == "to" {
				text = strings.Replace(text, `to: "jane@example.org", `, "", 1)
			}
			for _, v := range values {
				_, err := email(t, mailer, text).Do(t.Context(), withData(t, map[string]any{"v": v}))
				if e := wantError(t, err, ClassFinal, "template"); !strings.HasPrefix(e.Error(), key+": ") || strings.Contains(e.Error(), "example") {
					t.Errorf("%s %s with %q: %v", key, form, v, e)
				}
			}
		}
	}
	for _, v := range []string{"a\r\nBcc: " + evil, "a\nb", "a\rb", "a\x00"} {
		_, err := email(t, mailer, `{type: email, to: a@b.test, subject: "{{ v }}", body_template: b}`).Do(t.Context(), withData(t, map[string]any{"v": v}))
		_ = wantError(t, err, ClassFinal, "template")
	}
	if len(s.got()) != 0 {
		t.Fatalf("%d mails were sent", len(s.got()))
	}
}

// What a name holds is the name.
func TestNamesOfAllKinds(t *testing.T) {
	t.Parallel()
	s := (&mailServer{}).start(t)
	mailer := s.mailer(t, "")
	names := []string{
		"Doe, Jane", `Jane "JD" Doe`, "evil@example.net", "<evil@example.net>", "x <evil@example.net>, y", "Jane (comment", "a\\", "Ünï",
		"=?utf-8?q?a=0D=0ABcc:_evil@example.net?=", "{{ v }}", "Jane; Doe: x",
	}
	for _, form := range []string{`{{ v }} <jane@example.org>`, `"{{ v }}" <jane@example.org>`} {
		for i, name := range names {
			text := "type: email\nto: '" + form + "'\nsubject: s\nbody_template: b\n"
			if _, err := email(t, mailer, text).Do(t.Context(), withData(t, map[string]any{"v": name})); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got := s.got()[len(s.got())-1]
			m, err := mail.ReadMessage(strings.NewReader(got.raw))
			if err != nil {
				t.Fatal(err)
			}
			to, err := m.Header.AddressList("To")
			if err != nil || len(to) != 1 || to[0].Address != "jane@example.org" || !slices.Equal(got.to, []string{"jane@example.org"}) {
				t.Errorf("%d %s: to %v, %v, header %q", i, name, got.to, err, m.Header.Get("To"))
				continue
			}
			if to[0].Name != name && !strings.HasPrefix(name, "=?") { // which a reader takes for an encoded word, in quotes or not
				t.Errorf("%s became %q", name, to[0].Name)
			}
			if m.Header.Get("Bcc") != "" {
				t.Errorf("%s made a header", name)
			}
		}
	}
}

// An entry without a value is left out, as long as somebody is left.
func TestEmptyRecipients(t *testing.T) {
	t.Parallel()
	s := (&mailServer{}).start(t)
	mailer := s.mailer(t, "")
	text := `{type: email, to: ["{{ v }}", "{{ name }} <{{ v }}>", a@example.org], cc: "{{ v }}", subject: "", body_template: ""}`
	if _, err := email(t, mailer, text).Do(t.Context(), withData(t, map[string]any{"v": nil, "name": "Jane"})); err != nil {
		t.Fatal(err)
	}
	if got := s.got(); len(got) != 1 || !slices.Equal(got[0].to, []string{"a@example.org"}) || strings.Contains(got[0].raw, "Cc:") {
		t.Errorf("got %+v", got)
	}
	_, err := email(t, mailer, `{type: email, to: "{{ v }}", subject: s, body_template: b}`).Do(t.Context(), withData(t, map[string]any{"v": ""}))
	if e := wantError(t, err, ClassFinal, "template"); !strings.Contains(e.Error(), "nobody is left") {
		t.Errorf("got %v", e)
	}
	_, err = email(t, mailer, `{type: email, to: a@example.org, subject: s, body_template: "{{ gone }}"}`).Do(t.Context(), withData(t, map[string]any{}))
	if e := wantError(t, err, ClassFinal, "template"); !strings.HasPrefix(e.Error(), "body_template: ") {
		t.Errorf("got %v", e)
	}
}

// A mailbox in other letters wants a server that takes them; a domain does not.
func TestAddressesInOtherLetters(t *testing.T) {
	t.Parallel()
	s := (&mailServer{}).start(t)
	mailer := s.mailer(t, "")
	_, err := email(t, mailer, `{type: email, to: "käthe@example.org", subject: s, body_template: b}`).Do(t.Context(), callFor(t, order))
	_ = wantError(t, err, ClassFinal, "smtp_utf8")
	if _, err := email(t, mailer, `{type: email, to: "kaethe@bücher.example", subject: s, body_template: b}`).Do(t.Context(), callFor(t, order)); err != nil {
		t.Fatal(err)
	}
	if got := s.got(); len(got) != 1 || got[0].to[0] != "kaethe@xn--bcher-kva.example" {
		t.Errorf("got %+v", got)
	}
}

func TestEmailPreview(t *testing.T) {
	t.Parallel()
	text := `{type: email, to: "{{ name }} <jane@example.org>, joe@example.org", cc: c@example.org, reply_to: r@example.org,
		subject: "Ä {{ name }}", body_template: "{{ name }}", html_template: "<b>{{ name }}</b>"}`
	mailer := mailerOf(t, "{host: mail.test, from: \"Weir <weir@example.org>\"}")
	call := withData(t, map[string]any{"name": "Doe & Jane"})
	act := email(t, mailer, text)
	got, err := act.Preview(call)
	want := Preview{
		{"from", `"Weir" <weir@example.org>`},
		{"to", `"Doe & Jane" <jane@example.org>, joe@example.org`},
		{"cc", "c@example.org"},
		{"reply_to", "r@example.org"},
		{"subject", "Ä Doe & Jane"},
		{"text", "Doe & Jane"},
		{"html", "<b>Doe &amp; Jane</b>"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v\nwant %q", got, err, want)
	}
	if _, err := act.Preview(withData(t, map[string]any{})); err == nil {
		t.Error("what cannot be rendered has a preview")
	}
	act = email(t, nil, confirmation)
	if got, err := act.Preview(call); err == nil {
		t.Errorf("status is absent, and yet: %v", got)
	}
	if got, err := act.Preview(callFor(t, order)); err != nil || got[0].Name != "to" {
		t.Errorf("without a section smtp: %v, %v", got, err)
	}
}

// headerLines are the lines of a mail's header. A line that seems to be empty would end it for some readers, and one of more than
// 998 bytes is refused by servers.
func headerLines(t *testing.T, raw string) {
	t.Helper()
	header, _, _ := strings.Cut(raw, "\r\n\r\n")
	for line := range strings.SplitSeq(header, "\r\n") {
		if len(line) > 998 || strings.TrimSpace(line) == "" {
			t.Errorf("a line of %d bytes in the header: %.40q", len(line), line)
		}
	}
}

// The subject survives its encoding, however long and whatever its spaces.
func TestSubjectIsEncoded(t *testing.T) {
	t.Parallel()
	s := (&mailServer{}).start(t)
	mailer := s.mailer(t, "")
	for _, subject := range []string{
		"", "plain", strings.Repeat("long ", 60) + "end", strings.Repeat("ß漢", 100), "a\tb", "=?utf-8?q?x?=", "  spaces  inside  ",
		strings.Repeat("x", 3000), "a" + strings.Repeat(" ", 300) + strings.Repeat("b", 90), strings.Repeat("ß ", 200) + " ",
		"https://shop.example.org/" + strings.Repeat("p", 80) + " is here",
	} {
		if _, err := email(t, mailer, `{type: email, to: a@b.test, subject: "{{ v }}", body_template: b}`).Do(t.Context(), withData(t, map[string]any{"v": subject})); err != nil {
			t.Fatal(err)
		}
		raw := s.got()[len(s.got())-1].raw
		m, err := mail.ReadMessage(strings.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := (&mime.WordDecoder{}).DecodeHeader(m.Header.Get("Subject")); err != nil || got != subject {
			t.Errorf("%q became %q, %v", subject, got, err)
		}
		if subject == "plain" && !strings.Contains(raw, "\r\nSubject: plain\r\n") {
			t.Errorf("a plain subject was encoded: %s", raw)
		}
		headerLines(t, raw)
	}
}

// A name has no meaning in its spaces, and an end.
func TestNameOfManyCharacters(t *testing.T) {
	t.Parallel()
	s := (&mailServer{}).start(t)
	mailer := s.mailer(t, "")
	for name, want := range map[string]string{
		"Jane" + strings.Repeat(" ", 300) + "Doe": "Jane Doe",
		strings.Repeat("x", 3000):                 strings.Repeat("x", 200) + "…",
	} {
		if _, err := email(t, mailer, `{type: email, to: "{{ v }} <a@b.test>", subject: s, body_template: b}`).Do(t.Context(), withData(t, map[string]any{"v": name})); err != nil {
			t.Fatal(err)
		}
		raw := s.got()[len(s.got())-1].raw
		m, err := mail.ReadMessage(strings.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if to, err := m.Header.AddressList("To"); err != nil || len(to) != 1 || to[0].Name != want || to[0].Address != "a@b.test" {
			t.Errorf("%.20q became %v, %v", name, to, err)
		}
		headerLines(t, raw)
	}
}

func TestEmailConfig(t *testing.T) {
	t.Parallel()
	const head = "  - type: email\n    to: a@b.test\n    subject: s\n"
	for name, tt := range map[string]struct{ text, at, say string }{
		"no to":           {"  - type: email\n    subject: s\n    body_template: b\n", "[2:5]", "email needs to"},
		"empty to":        {"  - type: email\n    to: []\n    subject: s\n    body_template: b\n", "[3:9]", "email needs to"},
		"commas only":     {"  - type: email\n    to: \" , \"\n    subject: s\n    body_template: b\n", "[3:9]", "email needs to"},
		"no subject":      {"  - type: email\n    to: a@b.test\n    body_template: b\n", "[2:5]", "email needs subject"},
		"two lines":       {"  - type: email\n    to: a@b.test\n    subject: \"a\\nb\"\n    body_template: b\n", "[4:14]", "one line"},
		"no body":         {head, "[2:5]", "body_template or html_template"},
		"no address":      {head + "    body_template: b\n    cc: jane\n", "[6:9]", `"jane" is no mail address`},
		"in a list":       {head + "    body_template: b\n    cc:\n      - a@b.test\n      - a@b.test, c@d.test\n", "[8:9]", "is no mail address"},
		"open bracket":    {head + "    body_template: b\n    reply_to: \"{{ a }} <{{ b }}\"\n", "[6:15]", "is no mail address"},
		"after it":        {head + "    body_template: b\n    reply_to: \"<{{ a }}> {{ b }}\"\n", "[6:15]", "is no mail address"},
		"bad template":    {head + "    body_template: b\n    cc: [\"{{ a\"]\n", "[6:10]", "does not compile"},
		"no template":     {head + "    body_template: b\n    cc: [[a]]\n", "[6:10]", "expected a template"},
		"another's key":   {head + "    body_template: b\n    from: a@b.test\n", "[6:5]", `unknown key "from" in an email action`},
		"missing file":    {head + "    body_template: {file: none.txt}\n", "[5:27]", "cannot be read"},
		"mapping, no to":  {"  - type: email\n    to: {a: b}\n    subject: s\n    body_template: b\n", "[3:", "expected a template"},
		"unclosed quotes": {head + "    body_template: b\n    cc: '\"Doe, Jane <a@b.test>'\n", "[6:9]", "is no mail address"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := decodeList("actions:\n" + tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.at) || !strings.Contains(err.Error(), tt.say) {
				t.Fatalf("got %v, want %q at %s", err, tt.say, tt.at)
			}
		})
	}
	c := mustDecode(t, confirmation)
	if c.Endpoint() != "smtp" || c.Type() != "email" || c.Name() != "email" || c.Warnings() != nil {
		t.Errorf("got %s %s %s", c.Endpoint(), c.Type(), c.Name())
	}
	if got := mustDecode(t, strings.Replace(confirmation, "email,", "email, endpoint: relay,", 1)).Endpoint(); got != "relay" {
		t.Errorf("endpoint %s", got)
	}
}
