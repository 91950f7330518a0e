package outbound

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestParseTarget(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		"10.1.0.0/16": "10.1.0.0/16", "10.1.0.7": "10.1.0.7", "10.1.0.7/32": "10.1.0.7", "::1": "::1", "[::1]": "::1",
		"::ffff:10.0.0.1": "10.0.0.1", "fd00::/8": "fd00::/8", "Hooks.Internal.": "hooks.internal", "localhost": "localhost",
		"my_service": "my_service", "0.0.0.0/0": "0.0.0.0/0", "erp-1.svc.cluster.local": "erp-1.svc.cluster.local",
	}
	for in, want := range good {
		got, err := ParseTarget(in)
		if err != nil || got.String() != want {
			t.Errorf("%s: got %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", " ", "10.1.0.0/33", "10.1.2.3/16", "10.1.0", "300.1.1.1", "http://hooks.internal", "hooks.internal:8080",
		"localhost:8080", "127.0.0.1:8080", "*.internal", "-a.internal", "a..b", "::ffff:10.0.0.0/104", "hooks/24",
	} {
		if got, err := ParseTarget(in); err == nil {
			t.Errorf("%q was read as %q", in, got)
		}
	}
}

func decode(text string) (Config, error) {
	var file struct {
		Outbound Config `yaml:"outbound"`
	}
	err := yaml.UnmarshalWithOptions([]byte(text), &file, yaml.Strict())
	return file.Outbound, err
}

func TestConfigDecodes(t *testing.T) {
	t.Parallel()
	cfg, err := decode(`outbound: {allow: ["10.1.0.0/16", "hooks.internal", "::1"], proxy: "http://u:secret@proxy.test:3128"}`)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(cfg.Allow), "[10.1.0.0/16 hooks.internal ::1]"; got != want {
		t.Errorf("allow is %s, want %s", got, want)
	}
	if got, want := cfg.Proxy.String(), "http://proxy.test:3128"; got != want {
		t.Errorf("proxy is %s, want %s", got, want)
	}
	if cfg, err = decode("outbound: {allow: [], proxy: \"\"}"); err != nil || !cfg.Proxy.IsZero() || len(cfg.Allow) != 0 {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

func TestConfigErrorsNameThePlace(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ text, at, say string }{
		"bad network": {"outbound:\n  allow:\n    - 10.1.0.0/16\n    - 10.2.0.0/99\n", "[4:7]", "is no network"},
		"with a port": {"outbound:\n  allow: [\"hooks.internal:8080\"]\n", "[2:11]", "without scheme and port"},
		"no text":     {"outbound:\n  allow: [{a: b}]\n", "[2:1", "expected a network"},
		"unknown key": {"outbound:\n  alow: []\n", "[2:3]", "unknown field"},
		"bad proxy":   {"outbound:\n  proxy: ftp://proxy.test\n", "[2:10]", "http, https or socks5"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := decode(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.at) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("got %v, want %q at %s", err, tt.say, tt.at)
			}
		})
	}
}

func TestProxyKeepsItsPassword(t *testing.T) {
	t.Parallel()
	cfg, err := decode(`outbound: {proxy: "http://user:hunter2@proxy.test:3128"}`)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, parseErr := ParseProxy("http://user:hunter2@proxy.test:port")
	for _, text := range []string{
		fmt.Sprintf("%v", cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", cfg), string(raw), parseErr.Error(),
	} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("leaked: %s", text)
		}
	}
}
