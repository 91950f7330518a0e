// Command receiver is the receiver of the examples: it checks the signature of each webhook and prints a line for it. How it
// answers is in the path, so that an example can show what Weir makes of it:
//
//	/anything     204
//	/status/503   that status
//	/slow/2s/…    204 after two seconds
//
// WEBHOOK_SECRET is what the webhooks are signed with. examples/orders has a receiver as an application would write it, which
// also drops repeats.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	maxBody     = 1 << 20 // bytes
	secretsName = "WEBHOOK_SECRET"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8090", "the `address` to listen on")
	flag.Parse()
	//nolint:forbidigo // this is a main, too
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *listen, os.Getenv(secretsName), os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "receiver:", err)
		os.Exit(1) //nolint:forbidigo // this is a main, too
	}
}

func run(ctx context.Context, listen, secret string, out io.Writer) error {
	signature, err := standardwebhooks.NewWebhook(secret)
	if err != nil || secret == "" {
		return fmt.Errorf("%s has to be whsec_ and base64, as weir.yaml's signing_secret_env has it", secretsName)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &receiver{signature: signature, out: out}, ReadHeaderTimeout: 5 * time.Second}
	undo := context.AfterFunc(ctx, func() { _ = server.Close() }) // repeats are harmless
	defer undo()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// receiver answers webhooks. Safe for concurrent use.
type receiver struct {
	signature *standardwebhooks.Webhook

	mu  sync.Mutex // guards out: a line is written at once
	out io.Writer
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	status, wait := answer(req.URL.Path)
	verdict := "signature valid"
	if err := r.signature.Verify(body, req.Header); err != nil {
		status, verdict = http.StatusUnauthorized, err.Error()
	}
	select { // a hanging receiver
	case <-time.After(wait):
	case <-req.Context().Done():
	}
	r.mu.Lock()
	fmt.Fprintf(r.out, "%d %s, %s: %s\n", status, req.URL.Path, verdict, content(body))
	r.mu.Unlock()
	w.WriteHeader(status)
}

// answer is what a path asks for.
func answer(path string) (status int, wait time.Duration) {
	kind, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	value, _, _ := strings.Cut(rest, "/")
	switch kind {
	case "status":
		if status, err := strconv.Atoi(value); err == nil && status >= 200 && status <= 599 {
			return status, 0
		}
	case "slow":
		if wait, err := time.ParseDuration(value); err == nil {
			return http.StatusNoContent, wait
		}
	}
	return http.StatusNoContent, 0
}

// content is the row in an event, or any other body as it is.
func content(body []byte) string {
	var event struct {
		Type   string          `json:"event_type"`
		Entity string          `json:"entity_type"`
		Data   json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &event); err != nil || event.Type == "" {
		return string(body)
	}
	return fmt.Sprintf("%s %s %s", event.Type, event.Entity, event.Data)
}
