package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/config"
	"github.com/fraiseql/weir/internal/ops"
)

const (
	// scrapeTimeout is how long a worker may take to answer: it reads counters in its memory.
	scrapeTimeout = 10 * time.Second
	// scrapeLimit is how many bytes a scrape may have. A thousand observers stay far below.
	scrapeLimit = 32 << 20
	// defaultListen is where a worker listens whose configuration is not known.
	defaultListen = "127.0.0.1:9464"
)

func newMetricsCommand(a *app) *cobra.Command {
	var address string
	var all bool
	cmd := &cobra.Command{
		Use:   "metrics [NAME...]",
		Short: "Show the metrics of a worker as a table",
		Long: `Read what a worker serves at /metrics and show it in groups: counters and gauges in readable units, histograms as count,
mean and the quantiles that their buckets allow to estimate, as histogram_quantile of Prometheus does. NAMEs are parts of
names: what contains one of them is shown.

The worker is the one at http.listen of the configuration, unless --url names another one. docs/metrics.md says what each
metric means; -v shows it, too. The exit code is 4 if nobody answers.`,
		Example: "  weir metrics\n" +
			"  weir metrics delivery dead_letters\n" +
			"  weir metrics --url https://weir:secret@worker-2.example.org/metrics --all",
		RunE: a.does(func(ctx context.Context, args []string) error {
			from, err := a.scrapeURL(ctx, address)
			if err != nil {
				return err
			}
			families, err := scrape(ctx, from, scrapeTimeout)
			if err != nil {
				return err
			}
			found := readScrape(families, func(name string) bool { return wanted(name, args, all) })
			found.URL = shown(from)
			return a.print(found, func(w io.Writer) { a.writeMetrics(w, found) })
		}),
	}
	cmd.Flags().StringVar(&address, "url", "", "the `URL` of a worker's /metrics (default: from http.listen of the configuration)")
	cmd.Flags().BoolVar(&all, "all", false, "also those of the Go runtime and the process")
	return cmd
}

// wanted says whether a metric is shown.
func wanted(name string, parts []string, all bool) bool {
	if !all && !strings.HasPrefix(name, "weir_") {
		return false
	}
	for _, part := range parts {
		if strings.Contains(name, part) {
			return true
		}
	}
	return len(parts) == 0
}

// scrapeURL is where the metrics are: what --url says, or where the configuration has the worker listen.
func (a *app) scrapeURL(ctx context.Context, flag string) (*url.URL, error) {
	if flag == "" {
		listen, err := a.listen(ctx)
		if err != nil {
			return nil, err
		}
		flag = listen
	}
	if !strings.Contains(flag, "://") {
		flag = "http://" + flag
	}
	u, err := url.Parse(flag)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") { // the error would repeat a password
		return nil, wrongUse("--url: expected the address of a worker's metrics, as in http://127.0.0.1:9464/metrics")
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/metrics"
	}
	return u, nil
}

// listen is the address that a worker with the configuration serves, as seen from this machine.
func (a *app) listen(ctx context.Context) (string, error) {
	cfg, err := a.incomplete(ctx)
	if errors.Is(err, config.ErrNotFound) {
		return defaultListen, nil
	}
	if err != nil {
		return "", fmt.Errorf("%w\nmend it, or name the worker with --url", err)
	}
	address, ok := cfg.HTTP.Listen.Local()
	if !ok {
		return "", wrongUse("http.listen of the configuration is %q: give it an address, or name a worker with --url", cfg.HTTP.Listen)
	}
	return address, nil
}

// shown is a URL without what may be secret in it.
func shown(u *url.URL) string {
	public := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if name := u.User.Username(); name != "" {
		public.User = url.User(name)
	}
	return public.String()
}

// scrapeError says that nobody answers at a worker's address.
type scrapeError struct {
	from string
	err  error
}

func (e *scrapeError) Error() string {
	return fmt.Sprintf("cannot read %s: %v\ncheck that a worker runs there and what its http.listen says; --url names another one",
		e.from, e.err)
}

func (e *scrapeError) Unwrap() error { return e.err }

// scrape reads and parses the metrics. It follows no redirect, which might lead the password elsewhere, and uses no proxy.
func scrape(ctx context.Context, from *url.URL, limit time.Duration) (families map[string]*dto.MetricFamily, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), http.NoBody)
	if err != nil {
		return nil, wrongUse("--url: this is no URL that can be asked")
	}
	request.Header.Set("Accept", "text/plain;version=0.0.4")
	transport := &http.Transport{DisableKeepAlives: true}
	client := http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		var outer *url.Error // it repeats the URL
		if errors.As(err, &outer) {
			err = outer.Err
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, &scrapeError{shown(from), err}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %s", shown(from), response.Status, statusAdvice(response))
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, scrapeLimit+1))
	switch {
	case len(text) > scrapeLimit:
		return nil, fmt.Errorf("%s has more than %s: these are no worker's metrics", shown(from), ops.Size(scrapeLimit))
	case ctx.Err() != nil:
		return nil, &scrapeError{shown(from), context.Cause(ctx)}
	}
	if err == nil {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err = parser.TextToMetricFamilies(bytes.NewReader(text))
	}
	if err != nil {
		return nil, fmt.Errorf("what answers at %s are no metrics: %w\nname the /metrics of a worker with --url", shown(from), err)
	}
	return families, nil
}

// statusAdvice says what to do about an answer that is none.
func statusAdvice(response *http.Response) string {
	switch code := response.StatusCode; {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return "write name and password into the address, as in --url https://name:password@host/metrics"
	case code == http.StatusNotFound:
		return "check the path, which is /metrics at a worker"
	case code >= 300 && code < 400:
		to := "another address"
		if location, err := response.Location(); err == nil {
			to = shown(location)
		}
		return "redirects are not followed; if it is right, name " + to + " with --url"
	default:
		return "look at the log of what listens there"
	}
}
