package index

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/elastic/elastic-transport-go/v8/elastictransport"
	"github.com/prometheus/client_golang/prometheus"
)

// Elasticsearch is the connection to the servers of the section `elasticsearch:`, and the history's documents on them. Safe for
// concurrent use.
//
// The documents are in one index for each day of their events, weir-history-2026.11.25, and not in a data stream: a data stream
// takes creates only and has no external versions, so the newer of two outcomes could not win, and it knows an _id within its
// newest backing index alone, so an event that is written again after a rollover would be there twice.
type Elasticsearch struct {
	client *elastictransport.Client
	link   *link
	cfg    ElasticsearchConfig
	log    *slog.Logger
	prefix string // of the indices' names

	preparing sync.Mutex // guards prepared, and comes before mu
	prepared  bool

	mu       sync.Mutex // guards the rest
	features Features
}

// ElasticsearchOptions are what a connection needs beside its configuration.
type ElasticsearchOptions struct {
	// Installation tells the indices of several installations on one cluster apart. "": the only one.
	Installation string
	Logger       *slog.Logger
	Registerer   prometheus.Registerer
}

// OpenElasticsearch prepares the connection and connects to nothing yet. Requests are not repeated by it.
func OpenElasticsearch(c ElasticsearchConfig, o ElasticsearchOptions) (*Elasticsearch, error) {
	c = c.WithDefaults()
	log := cmp.Or(o.Logger, slog.New(slog.DiscardHandler)).With("component", "elasticsearch")
	l := newLink(c, log, newElasticMetrics(o.Registerer))
	client, err := elastictransport.NewClient(
		elastictransport.WithURLs(c.servers()...), elastictransport.WithAPIKey(c.APIKeyEnv.Value()),
		elastictransport.WithBasicAuth(c.UsernameEnv.Value(), c.PasswordEnv.Value()),
		elastictransport.WithDisableRetry(), // callers know better what to repeat, and when
		elastictransport.WithTransport(l), elastictransport.WithUserAgent("Weir"),
	)
	if err != nil {
		return nil, fmt.Errorf("open Elasticsearch: %w", err)
	}
	return &Elasticsearch{client: client, link: l, cfg: c, log: log, prefix: indexPrefix(o.Installation)}, nil
}

// Client is for requests of other kinds. Their answers count for Trouble, too.
func (e *Elasticsearch) Client() *elastictransport.Client { return e.client }

// String names the servers, for people.
func (e *Elasticsearch) String() string { return e.cfg.String() }

// Close closes idle connections.
func (e *Elasticsearch) Close() error {
	e.link.base.CloseIdleConnections()
	return nil
}

// Trouble says why Elasticsearch does not serve: "" if it answered the last request, or if there is none.
func (e *Elasticsearch) Trouble() string {
	if e == nil {
		return ""
	}
	if trouble := e.link.said(); trouble != "" {
		return e.String() + ": " + trouble
	}
	return ""
}

// maxInstallation keeps the names of indices far from their limit of 255 bytes.
const maxInstallation = 100

// indexPrefix is what the names of an installation's indices begin with.
func indexPrefix(installation string) string {
	const prefix = "weir-history"
	if installation == "" {
		return prefix
	}
	clean := strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') || r == '_' || r == '-' {
			return r
		}
		return '_'
	}, strings.ToLower(installation))
	return prefix + "-" + clean[:min(len(clean), maxInstallation)]
}

// newTransport connects to the servers.
func newTransport(c ElasticsearchConfig) *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: min(c.Timeout.Std(), 10*time.Second)}).DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: c.CAFile.Pool(), MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 8, IdleConnTimeout: 90 * time.Second,
	}
}
