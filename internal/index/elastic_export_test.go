package index

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func (e *Elasticsearch) Retries() prometheus.Counter { return e.link.metrics.retries }

func (e *Elasticsearch) Put(ctx context.Context, docs []Document, overwrite bool) ([]Refusal, error) {
	return e.put(ctx, docs, overwrite)
}

func (e *Elasticsearch) Expire(ctx context.Context, before time.Time) ([]string, error) {
	return e.expire(ctx, before)
}

func (e *Elasticsearch) IndexOf(d Document) string { return e.indexOf(&d) }

func (e *Elasticsearch) Refresh(ctx context.Context) error { return e.refresh(ctx, e.prefix) }

func (e *Elasticsearch) Ask(ctx context.Context, method, path string, body, out any) error {
	return e.ask(ctx, method, path, body, out)
}
