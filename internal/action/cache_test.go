package action

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/sandbox"
)

// cached is a Redis server with what the cache action needs of it.
type cached struct {
	t      *testing.T
	server *sandbox.Redis
	deps   Deps
	plain  *redis.Client // the application's
}

func newCached(t *testing.T) *cached {
	t.Helper()
	server := sandbox.TestRedis(t)
	url, err := cache.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	log, registry := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	r := cache.Open(cache.Config{URL: url}, log, registry)
	r.Name("test", t.Name())
	plain := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), plain.Close()); err != nil {
			t.Error(err)
		}
	})
	results := cache.NewResults(r, cache.ResultsOptions{Logger: log, Registerer: registry})
	return &cached{t: t, server: server, deps: Deps{Redis: r, Results: results}, plain: plain}
}

// has sets keys of the application.
func (c *cached) has(keys ...string) {
	c.t.Helper()
	for _, key := range keys {
		if err := c.plain.Set(c.t.Context(), key, "x", 0).Err(); err != nil {
			c.t.Fatal(err)
		}
	}
}

// keeps stores a result of Weir's.
func (c *cached) keeps(key string, tags ...string) {
	c.t.Helper()
	l := c.deps.Results.Get(c.t.Context(), cache.Key{Observer: "o", Action: "a", Key: key}, tags, time.Minute, 0)
	if l.Found != cache.Miss {
		c.t.Fatalf("%s: %v, want a miss", key, l.Found)
	}
	l.Fill.Store(c.t.Context(), []byte("x"), time.Minute)
}

// kept are those of the keys for which there is a result.
func (c *cached) kept(keys ...string) (kept []string) {
	for _, key := range keys {
		l := c.deps.Results.Get(c.t.Context(), cache.Key{Observer: "o", Action: "a", Key: key}, nil, time.Minute, 0)
		if l.Found == cache.Hit {
			kept = append(kept, key)
		} else if l.Fill != nil {
			l.Fill.Abandon(c.t.Context())
		}
	}
	return kept
}

// left are the application's keys.
func (c *cached) left() []string {
	c.t.Helper()
	keys, err := c.plain.Keys(c.t.Context(), "*").Result()
	if err != nil {
		c.t.Fatal(err)
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return strings.HasPrefix(key, "weir:") })
	slices.Sort(keys)
	return keys
}

func (c *cached) do(text string, call Call) (event.Outcome, error) {
	c.t.Helper()
	return mustDecode(c.t, text).Bind(c.deps).Do(c.t.Context(), call)
}

func TestCacheRemovesKeysAndResults(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	c.has("order:100.10", "order:100.1", "list", "x*")
	c.keeps("order:100.10")
	c.keeps("other", "orders", "total:100.10")
	c.keeps("third", "ordersx")
	const text = `{type: cache, keys: ["order:{{ total }}", absent, "x*"], tags: ["total:{{ total }}", orders]}`
	for _, want := range []string{"2 keys and 2 results removed", "0 keys and 0 results removed"} {
		out, err := c.do(text, callFor(t, order))
		if err != nil || out.ResponseBody != want {
			t.Errorf("got %q, %v, want %q", out.ResponseBody, err, want)
		}
		if left, kept := c.left(), c.kept("order:100.10", "other", "third"); fmt.Sprint(left, kept) != "[list order:100.1] [third]" {
			t.Errorf("left %v, kept %v", left, kept)
		}
	}
}

func TestCacheOfTagsAlone(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	c.has("orders")
	c.keeps("a", "orders")
	out, err := c.do(`{type: cache, tags: [orders]}`, callFor(t, order))
	if err != nil || out.ResponseBody != "0 keys and 1 result removed" || len(c.left()) != 1 {
		t.Errorf("got %+v, %v, left %v", out, err, c.left())
	}
}

// What Weir keeps in the same server is no key of the application's.
func TestCacheLeavesWeirsKeys(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	c.has("weir-1", "weir-2")
	c.keeps("a")
	out, err := c.do(`{type: cache, key_pattern: "weir*"}`, callFor(t, order))
	if err != nil || out.ResponseBody != "2 keys and 0 results removed" || len(c.left()) != 0 || len(c.kept("a")) != 1 {
		t.Errorf("got %+v, %v, left %q, kept %v", out, err, c.left(), c.kept("a"))
	}
}

// Whatever a value holds, it matches only itself.
func TestCachePatternEscapesValues(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	values := []string{"*", "?", "[a-z]", "[", "]", `\`, `\*`, `a\`, "a*", "^", "-", "é", "a b", "\n"}
	for _, value := range values {
		var others []string
		for _, other := range values {
			c.has("o:"+other+":1", "o:"+other+":2")
			c.keeps("o:" + other + ":")
			if other != value {
				others = append(others, "o:"+other+":1", "o:"+other+":2")
			}
		}
		slices.Sort(others)
		out, err := c.do(`{type: cache, key_pattern: "o:{{ v }}:*"}`, withData(t, map[string]any{"v": value}))
		if err != nil || out.ResponseBody != "2 keys and 1 result removed" {
			t.Errorf("%q: got %q, %v", value, out.ResponseBody, err)
		}
		if left := c.left(); !slices.Equal(left, others) {
			t.Errorf("%q: left %q", value, left)
		}
		if _, err := c.do(`{type: cache, key_pattern: "o:*"}`, callFor(t, order)); err != nil || len(c.left()) != 0 {
			t.Errorf("%q: %v, left %q", value, err, c.left())
		}
	}
}

// A value that is missing must not widen what is removed.
func TestCacheRefusesWhatIsEmpty(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	c.has("a", "*")
	call := withData(t, map[string]any{"none": nil})
	for _, text := range []string{
		`{type: cache, keys: [a, "{{ none }}"]}`, `{type: cache, tags: ["{{ none }}"]}`, `{type: cache, key_pattern: "{{ none }}"}`,
		`{type: cache, key_pattern: "{{ none }}*"}`, `{type: cache, key_pattern: "?{{ none }}[^a]*"}`, `{type: cache, keys: ["{{ absent }}"]}`,
	} {
		_, err := c.do(text, call)
		_ = wantError(t, err, ClassFinal, "template")
		_, err = mustDecode(t, text).Bind(c.deps).Preview(call)
		_ = wantError(t, err, ClassFinal, "template")
	}
	if len(c.left()) != 2 {
		t.Errorf("left %q", c.left())
	}
	out, err := c.do(`{type: cache, key_pattern: "{{ v }}*"}`, withData(t, map[string]any{"v": "*"}))
	if err != nil || out.ResponseBody != "1 key and 0 results removed" || fmt.Sprint(c.left()) != "[a]" {
		t.Errorf("got %+v, %v, left %q", out, err, c.left())
	}
}

func TestCacheWithoutRedis(t *testing.T) {
	t.Parallel()
	c := newCached(t)
	c.has("a")
	if err := c.server.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`{type: cache, keys: [a]}`, `{type: cache, key_pattern: "a*"}`, `{type: cache, tags: [a]}`} {
		_, err := c.do(text, callFor(t, order))
		if e := wantError(t, err, ClassRetry, "redis_away"); !e.Sick {
			t.Errorf("%s: %v is nobody's fault", text, e)
		}
	}
	_, err := bind(t, `{type: cache, keys: [a]}`).Do(t.Context(), callFor(t, order)) // the section came with a reload
	if e := wantError(t, err, ClassRetry, "redis_away"); !e.Sick {
		t.Errorf("without a connection: %v is nobody's fault", e)
	}
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = mustDecode(t, `{type: cache, keys: [a]}`).Bind(c.deps).Do(cut, callFor(t, order))
	if e := wantError(t, err, ClassRetry, "redis_away"); e.Sick || !errors.Is(err, context.Canceled) {
		t.Errorf("cut off: %v, sick %t", e, e.Sick)
	}
}

func TestCacheRefreshes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{type: cache, action: refresh, webhook: get}`:      "order-shipped/get",
		`{type: cache, action: refresh, webhook: a.b/c-d_}`: "a.b/c-d_",
	} {
		a := bind(t, text)
		for _, theirs := range []error{nil, Retry("status_503", errors.New("x"))} {
			call, got := callFor(t, order), ""
			call.Refresh = func(_ context.Context, observer, action string) (event.Outcome, error) {
				got = observer + "/" + action
				return event.Outcome{ResponseStatus: 204}, theirs
			}
			out, err := a.Do(t.Context(), call)
			if !errors.Is(err, theirs) || out.ResponseStatus != 204 || got != want {
				t.Errorf("%s: called %s, got %+v, %v", text, got, out, err)
			}
		}
	}
}

func TestCachePreview(t *testing.T) {
	t.Parallel()
	call := withData(t, map[string]any{"v": "a*[b"})
	p := parts(t, bind(t, `{type: cache, keys: ["k:{{ v }}", b], key_pattern: "p:{{ v }}:*", tags: ["{{ v }}"]}`), call)
	if p["action"] != "invalidate" || p["keys"] != "k:a*[b, b" || p["pattern"] != `p:a\*\[b:*` || p["tags"] != "a*[b" || len(p) != 4 {
		t.Errorf("got %q", p)
	}
	p = parts(t, bind(t, `{type: cache, action: refresh, webhook: get}`), call)
	if p["action"] != "refresh" || p["webhook"] != "order-shipped/get" || len(p) != 2 {
		t.Errorf("got %q", p)
	}
}

func TestMatchesAll(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]bool{
		"": true, "*": true, "**": true, "?": true, "*?*": true, "[a-z]*": true, "[^a]": true, `[\]]*`: true, "[a": true, `[a\`: true,
		"a": false, "*a": false, `\*`: false, `*\?`: false, "[a]b": false, "]": false, " ": false, "order:*": false,
	} {
		if got := matchesAll(pattern); got != want {
			t.Errorf("%q: %t", pattern, got)
		}
	}
}

func TestCacheEndpoint(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"{type: cache, tags: [a]}": "redis", "{type: cache, tags: [a], endpoint: b}": "b"} {
		if got := mustDecode(t, text).Endpoint(); got != want {
			t.Errorf("%s: got %s", text, got)
		}
	}
}
