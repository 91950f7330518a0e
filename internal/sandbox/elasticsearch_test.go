package sandbox_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/fraiseql/weir/internal/sandbox"
)

// ask sends a request to Elasticsearch and returns the status, 0 if there was no answer.
func ask(t *testing.T, method, url, body string) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// TestElasticsearchAfterACrash also shows what the server is for: that it decides by versions, as the real one.
func TestElasticsearchAfterACrash(t *testing.T) {
	t.Parallel()
	e := sandbox.TestElasticsearch(t)
	document := e.URL() + "/things/_doc/1?version_type=external&version="
	if status, answer := ask(t, http.MethodPut, document+"7", `{"name":"seven"}`); status != http.StatusCreated {
		t.Fatalf("%d %s", status, answer)
	}
	if status, answer := ask(t, http.MethodPut, document+"6", `{"name":"six"}`); status != http.StatusConflict {
		t.Errorf("an older version: %d %s", status, answer)
	}
	if err := e.Kill(); err != nil {
		t.Fatal(err)
	}
	if status, answer := ask(t, http.MethodGet, e.URL()+"/things/_doc/1", ""); status != 0 {
		t.Errorf("a killed server: %d %s", status, answer)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, answer := ask(t, http.MethodGet, e.URL()+"/things/_doc/1", ""); status != http.StatusOK ||
		!strings.Contains(answer, "seven") {
		t.Errorf("after the crash: %d %s", status, answer)
	}
	if err := e.Process().Signal(syscall.SIGSTOP); err != nil {
		t.Error(err)
	}
	dir := e.Dir()
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("after Stop the folder is left: %v", err)
	}
}

func TestElasticsearchWithPassword(t *testing.T) {
	t.Parallel()
	e := sandbox.TestElasticsearch(t, sandbox.ElasticsearchOptions{
		Password: "so-secret", Settings: map[string]string{"node.name": "guarded"},
	})
	if status, answer := ask(t, http.MethodGet, e.URL()+"/_nodes", ""); status != http.StatusUnauthorized {
		t.Errorf("without a password: %d %s", status, answer)
	}
	with := strings.Replace(e.URL(), "//", "//"+sandbox.ElasticsearchUser+":so-secret@", 1)
	if status, answer := ask(t, http.MethodGet, with+"/_nodes", ""); status != http.StatusOK ||
		!strings.Contains(answer, `"name":"guarded"`) {
		t.Errorf("with it: %d %s", status, answer)
	}
}

func TestElasticsearchDiesWithItsOwner(t *testing.T) {
	t.Parallel()
	owner, line := runHelper(t, "elasticsearch")
	url, dir, _ := strings.Cut(line, " ")
	if status, answer := ask(t, http.MethodGet, url+"/_cluster/health", ""); status != http.StatusOK {
		t.Fatalf("%s: %d %s", line, status, answer)
	}
	if err := owner.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is gone", func() bool {
		status, _ := ask(t, http.MethodGet, url+"/_cluster/health", "")
		return status == 0
	})
	eventually(t, "the folder is gone", func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	})
}

func TestElasticsearchWithoutJava(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ program, want string }{
		"none":    {"exit 127", "install Java 17"},
		"too old": {`echo "    java.home = /opt/java"; echo "    java.specification.version = 11"`, "is Java 11, and Elasticsearch"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			if err := os.Mkdir(filepath.Join(home, "bin"), 0o755); err != nil {
				t.Fatal(err)
			}
			program := []byte("#!/bin/sh\n" + test.program + "\n")
			if err := os.WriteFile(filepath.Join(home, "bin", "java"), program, 0o755); err != nil {
				t.Fatal(err)
			}
			if _, line := runHelper(t, "elasticsearch", "JAVA_HOME="+home); !strings.Contains(line, test.want) {
				t.Errorf("%s\nlacks %q", line, test.want)
			}
		})
	}
}
