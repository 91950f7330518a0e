package setting_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/fraiseql/weir/internal/setting"
)

func TestCAFile(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, content := range map[string][]byte{"ca.pem": certificate, "empty.pem": nil, "text.pem": []byte("hello")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var opened []string
	ctx := setting.NewContext(t.Context(), setting.Surroundings{Dir: dir, Opened: func(f setting.File) { opened = append(opened, f.Path) }})
	read := func(text string) (setting.CAFile, error) {
		var file struct {
			CA setting.CAFile `yaml:"ca"`
		}
		err := yaml.NewDecoder(strings.NewReader(text), yaml.Strict()).DecodeContext(ctx, &file)
		return file.CA, err
	}
	ca, err := read("ca: ca.pem")
	if err != nil || ca.IsZero() || ca.String() != "ca.pem" {
		t.Fatalf("got %v, %v", ca, err)
	}
	if len(opened) != 1 || opened[0] != filepath.Join(dir, "ca.pem") {
		t.Errorf("opened %q: a change of the file would not be noticed", opened)
	}
	if pool := ca.Pool(); pool == nil || pool.Equal((setting.CAFile{}).Pool()) {
		t.Error("no authority in it")
	}
	if (setting.CAFile{}).Pool() != nil {
		t.Error("no file is not the system's authorities")
	}
	for text, want := range map[string]string{
		"ca: none.pem": "cannot be read", "ca: empty.pem": "holds no certificate", "ca: text.pem": "holds no certificate",
		"ca: [a]": "expected the path", `ca: ""`: "expected the path",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "[1:5]") {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
