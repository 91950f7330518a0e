package index

import (
	"context"
	"net/http"
)

// Survey finds out what the server is and has, and changes nothing.
func (e *Elasticsearch) Survey(ctx context.Context) (Features, error) { return e.probe(ctx) }

// IsDenied says whether an error is Elasticsearch's answer to credentials that are wrong, or that do not suffice.
func IsDenied(err error) bool {
	return statusOf(err) == http.StatusUnauthorized || statusOf(err) == http.StatusForbidden
}
