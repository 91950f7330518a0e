package setting_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"pgregory.net/rapid"

	"github.com/fraiseql/weir/internal/setting"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	tests := map[string]time.Duration{
		"500ms": 500 * time.Millisecond, "30s": 30 * time.Second, "12h": 12 * time.Hour, "30d": 30 * 24 * time.Hour,
		"1w": 7 * 24 * time.Hour, "1h30m": 90 * time.Minute, "0s": 0, "0": 0,
	}
	for text, want := range tests {
		got, err := setting.ParseDuration(text)
		if err != nil || got.Std() != want {
			t.Errorf("%q: got %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "5", "s", "-5s", "5 s", "1.5h", "30m1h", "1h1h", "5µs", "5ns", "300y", "30S"} {
		got, err := setting.ParseDuration(text)
		if err == nil {
			t.Errorf("%q is accepted as %s", text, got)
			continue
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) || !strings.Contains(err.Error(), "30s, 12h or 30d") {
			t.Errorf("%q: the error does not say what and what instead: %v", text, err)
		}
	}
}

// What a duration writes is read as the same duration, and editors accept it.
func TestDurationRoundTrip(t *testing.T) {
	t.Parallel()
	pattern := regexp.MustCompile(setting.Duration(0).JSONSchema().Pattern)
	rapid.Check(t, func(t *rapid.T) {
		// To the millisecond, the smallest unit that can be written.
		want := setting.Duration(time.Duration(rapid.Int64Range(0, 100*365*24*3600*1000).Draw(t, "ms")) * time.Millisecond)
		text, err := want.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := setting.ParseDuration(string(text)); err != nil || got != want {
			t.Fatalf("%s is read as %s, %v; want %s", text, got, err, want)
		}
		if !pattern.Match(text) {
			t.Fatalf("%s is not of the schema's pattern", text)
		}
	})
}

// file is a piece of weir.yaml.
type file struct {
	Wait   setting.Duration `yaml:"wait"`
	Secret setting.Secret   `yaml:"secret"`
}

func decode(t *testing.T, s setting.Surroundings, text string) (file, error) {
	t.Helper()
	var f file
	ctx := setting.NewContext(t.Context(), s)
	err := yaml.NewDecoder(strings.NewReader(text), yaml.Strict()).DecodeContext(ctx, &f)
	return f, err
}

// environment has one variable.
func environment(name, value string) setting.Surroundings {
	return setting.Surroundings{Lookup: func(n string) (string, bool) { return value, n == name }}
}

func TestDurationInAFile(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"wait: 30s": 30 * time.Second, `wait: "1h30m"`: 90 * time.Minute, "wait: 0": 0, "wait: |-\n  5m": 5 * time.Minute,
	} {
		if f, err := decode(t, setting.Surroundings{}, text); err != nil || f.Wait.Std() != want {
			t.Errorf("%s: got %s, %v; want %s", text, f.Wait, err, want)
		}
	}
}

// Every refusal names the place of the value and what was expected.
func TestRefusalsNameThePlace(t *testing.T) {
	t.Parallel()
	env := environment("EMPTY", "")
	const noName = "expected the name of an environment variable that holds the secret, as in ERP_SECRET"
	tests := []struct{ text, want string }{
		{"wait: 30 seconds", `"30 seconds" is not a duration: write a number and a unit, as in 500ms, 30s, 12h or 30d`},
		{"wait: 5", `"5" is not a duration`},
		{"wait: 1.5", `"1.5" is not a duration`},
		{"wait: true", "expected a duration, as in 30s, 12h or 30d"},
		{"wait: [30s]", "expected a duration, as in 30s, 12h or 30d"},
		{"secret: NOBODY", "environment variable NOBODY is not set: set it to the secret"},
		{"secret: EMPTY", "environment variable EMPTY is not set: set it to the secret"},
		{`secret: ""`, noName},
		{`secret: "$ERP_SECRET"`, noName},
		{"secret: ERP_SECRET=abc", noName},
		{"secret: my secret", noName},
		{"secret: [A, B]", noName},
		{"secret: true", noName},
	}
	for _, tt := range tests {
		_, err := decode(t, env, "\n"+tt.text)
		var at yaml.Error
		if !errors.As(err, &at) || !strings.Contains(at.GetMessage(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.text, err, tt.want)
			continue
		}
		column := strings.Index(tt.text, ":") + 3
		if p := at.GetToken().Position; p.Line != 2 || p.Column != column {
			t.Errorf("%s: the error is at %d:%d, want 2:%d", tt.text, p.Line, p.Column, column)
		}
	}
}

func TestSecretIsLookedUp(t *testing.T) {
	t.Parallel()
	f, err := decode(t, environment("ERP_SECRET", "hush"), "secret: ERP_SECRET")
	if err != nil || f.Secret.Value() != "hush" || f.Secret.Env() != "ERP_SECRET" || f.Secret.IsZero() {
		t.Errorf("got %q of %q, %v", f.Secret.Value(), f.Secret.Env(), err)
	}
	// Without an environment (validate-config --no-env) the name alone is known.
	f, err = decode(t, setting.Surroundings{}, "secret: ERP_SECRET")
	if err != nil || f.Secret.Value() != "" || f.Secret.Env() != "ERP_SECRET" || f.Secret.IsZero() {
		t.Errorf("without an environment: %q of %q, %v", f.Secret.Value(), f.Secret.Env(), err)
	}
	if f, err = decode(t, setting.Surroundings{}, "wait: 1s"); err != nil || !f.Secret.IsZero() || f.Secret.Value() != "" {
		t.Errorf("not written: %v, %v", f.Secret, err)
	}
	if s := setting.LiteralSecret(""); !s.IsZero() {
		t.Error("an empty literal is no secret")
	}
	if s := setting.LiteralSecret("hush"); s.Value() != "hush" || s.Env() != "" || s.IsZero() {
		t.Errorf("literal: %q of %q", s.Value(), s.Env())
	}
}

// holder has a secret where fmt does not call its methods.
type holder struct{ inner setting.Secret }

// However a secret is printed, encoded or logged, alone or within something else, its value stays out.
func TestSecretsNeverPrint(t *testing.T) {
	t.Parallel()
	const value = "hush-hush"
	f, err := decode(t, environment("ERP_SECRET", value), "secret: ERP_SECRET")
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]setting.Secret{"$ERP_SECRET": f.Secret, "[redacted]": setting.LiteralSecret(value)} {
		if got := s.String(); got != name {
			t.Errorf("String is %q, want %q", got, name)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%c", "%U"} {
			for _, what := range []any{s, &s, []setting.Secret{s}, file{Secret: s}, holder{s}, &holder{s}, map[string]holder{"k": {s}}} {
				refuse(t, value, fmt.Sprintf(verb, what))
			}
		}
		for _, encode := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
			for _, what := range []any{s, file{Secret: s}, map[string]any{"k": s}} {
				out, err := encode(what)
				if err != nil {
					t.Error(err)
				}
				refuse(t, value, string(out))
			}
		}
		var log bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(h).Info("secrets", "alone", s, "in_a_struct", file{Secret: s}, "hidden", holder{s})
		}
		refuse(t, value, log.String())
		if !strings.Contains(log.String(), "alone="+name) && !strings.Contains(log.String(), `alone="`+name) {
			t.Errorf("the log does not name the secret: %s", log.String())
		}
	}
}

// refuse fails if a secret stands in the text, as it is or in hexadecimal digits.
func refuse(t *testing.T, secret, text string) {
	t.Helper()
	for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret)} {
		if strings.Contains(text, form) {
			t.Errorf("the secret is in %s", text)
		}
	}
}

func TestSurroundings(t *testing.T) {
	t.Parallel()
	s := environment("A", "1")
	s.Dir = "/etc/weir"
	got := setting.FromContext(setting.NewContext(t.Context(), s))
	if v, ok := got.Lookup("A"); got.Dir != s.Dir || v != "1" || !ok {
		t.Errorf("got %q, %q, %v", got.Dir, v, ok)
	}
	if none := setting.FromContext(context.Background()); none.Lookup != nil || none.Dir != "" {
		t.Errorf("a context without surroundings has %+v", none.Dir)
	}
}
