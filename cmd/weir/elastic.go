package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/ops"
	"github.com/fraiseql/weir/internal/setting"
)

// elasticError says that Elasticsearch cannot be asked.
type elasticError struct {
	servers string
	err     error
}

func (e *elasticError) Error() string {
	return fmt.Sprintf("cannot ask the Elasticsearch at %s: %s\n"+
		"check that it runs, and the section elasticsearch of the configuration",
		e.servers, strings.ReplaceAll(e.err.Error(), "\n", ": "))
}

func (e *elasticError) Unwrap() error { return e.err }

// openElasticsearch prepares the connection to the Elasticsearch of the configuration.
func openElasticsearch(s *settings) (*index.Elasticsearch, error) {
	return index.OpenElasticsearch(*s.file.Elasticsearch, index.ElasticsearchOptions{
		Installation: s.name, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
}

// withElasticsearch does something with the Elasticsearch of the configuration.
func (s *settings) withElasticsearch(do func(*index.Elasticsearch) error) error {
	switch {
	case s.mistakes != nil:
		return s.mistakes
	case s.file == nil || s.file.Elasticsearch == nil:
		return configError{errors.New("there is no section elasticsearch in the configuration: " +
			"name the file with --config, or write one, as in elasticsearch: {urls: [\"http://localhost:9200\"]}")}
	case s.unset != nil && lacksSomething(s.file.Elasticsearch):
		return configError{s.unset}
	}
	e, err := openElasticsearch(s)
	if err != nil {
		return configError{err}
	}
	err = do(e)
	var away *ops.ElasticsearchError
	if errors.As(err, &away) {
		err = &elasticError{e.String(), err}
	}
	return errors.Join(err, e.Close())
}

// lacksSomething says whether the environment lacks what the section asks for.
func lacksSomething(c *index.ElasticsearchConfig) bool {
	for _, secret := range []setting.Secret{c.APIKeyEnv, c.UsernameEnv, c.PasswordEnv} {
		if secret.Env() != "" && secret.Value() == "" {
			return true
		}
	}
	return slices.ContainsFunc(c.URLs, func(u index.ServerURL) bool { return u.String() == "" })
}

// checkElasticsearch asks for what it is, so that nothing is begun that could not be ended.
func checkElasticsearch(ctx context.Context, e *index.Elasticsearch) error {
	if _, err := e.Survey(ctx); err != nil {
		return &ops.ElasticsearchError{Err: err}
	}
	return nil
}
