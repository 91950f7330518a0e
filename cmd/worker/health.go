package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/fraiseql/weir/internal/config"
)

// healthTimeout is how long a worker that is alive may take to say so.
const healthTimeout = 3 * time.Second

// askHealth is for images that hold no other program to ask with.
func askHealth(ctx context.Context, explicit string, lookup func(string) (string, bool), stderr io.Writer) int {
	path, err := config.Find(explicit, lookup)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitConfiguration
	}
	// The address is all that is wanted: secrets may be the running worker's alone.
	cfg, err := config.Load(ctx, config.Options{Path: path, Lookup: lookup, Incomplete: true})
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitConfiguration
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	if err := healthy(ctx, cfg.HTTP.Listen); err != nil {
		fmt.Fprintln(stderr, "worker: not alive:", err)
		return exitFailed
	}
	return exitDone
}

func healthy(ctx context.Context, listen config.Listen) error {
	address, ok := listen.Local()
	if !ok {
		return errors.New("http.listen is off: nobody can ask")
	}
	target := "http://" + address + "/healthz"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy of the environment
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", target, res.Status)
	}
	return nil
}
