package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
)

// errNotConfirmed is the answer no.
var errNotConfirmed = errors.New("nothing was done")

// confirm asks somebody before something is lost for good. Where nobody can be asked, --yes has to say it.
func (a *app) confirm(ctx context.Context, yes bool, format string, args ...any) error {
	question := fmt.Sprintf(format, args...)
	if yes {
		return nil
	}
	if !a.interactive {
		return wrongUse("%s: this is not a terminal, so say --yes", question)
	}
	_, _ = fmt.Fprintf(a.stderr, "%s? [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // it outlives an interrupt, as the program does not
		line, _ := bufio.NewReader(a.stdin).ReadString('\n')
		answer <- line
	}()
	select {
	case <-ctx.Done():
		return errNotConfirmed
	case line := <-answer:
		if line = strings.ToLower(strings.TrimSpace(line)); line == "y" || line == "yes" {
			return nil
		}
		return errNotConfirmed
	}
}
