package sandbox

import (
	"context"
	"fmt"
	"os"
	"sync"
)

// TB is what this package needs of testing.TB.
type TB interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// TestDatabase is Database for a test: dropped when it ends. A failure ends the test.
func (p *Postgres) TestDatabase(t TB) (databaseURL string) {
	t.Helper()
	return forTest(t, p.Database)
}

// TestEmptyDatabase is like TestDatabase, but nothing has been migrated.
func (p *Postgres) TestEmptyDatabase(t TB) (databaseURL string) {
	t.Helper()
	return forTest(t, p.EmptyDatabase)
}

func forTest(t TB, create func(context.Context) (string, func(context.Context) error, error)) string {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	databaseURL, drop, err := create(ctx)
	if err != nil {
		t.Fatalf("sandbox: %v", err)
	}
	t.Cleanup(func() {
		if err := drop(ctx); err != nil {
			t.Errorf("sandbox: %v", err)
		}
	})
	return databaseURL
}

// Suite is the one server of a test binary, opened when a test first asks for it, so that tests which need no database
// do not wait for one. The zero value is ready:
//
//	var postgres sandbox.Suite
//
//	func TestMain(m *testing.M) { os.Exit(postgres.Main(m).Run()) }
//
//	func TestIngest(t *testing.T) {
//		t.Parallel()
//		databaseURL := postgres.Database(t)
//		…
//
// With goleak: goleak.VerifyTestMain(postgres.Main(m)). Safe for concurrent use. Tests that restart or kill a server
// start their own with StartPostgres.
type Suite struct {
	Options PostgresOptions

	once   sync.Once
	server *Postgres
	err    error

	redisOnce sync.Once
	redis     *Redis
	redisErr  error

	elasticOnce sync.Once
	elastic     *Elasticsearch // nil: the server of ELASTICSEARCH_URL
	elasticErr  error
}

// Runner is what *testing.M is, and what goleak wants.
type Runner interface{ Run() int }

// Main wraps m so that Run also stops the server. It reports 1 if all tests passed and that failed.
func (s *Suite) Main(m Runner) Runner { return suiteRun{suite: s, tests: m} }

type suiteRun struct {
	suite *Suite
	tests Runner
}

func (r suiteRun) Run() int {
	code := r.tests.Run()
	if r.suite.redis != nil {
		if err := r.suite.redis.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "sandbox: stop Redis:", err)
			code = max(code, 1)
		}
	}
	if r.suite.elastic != nil {
		if err := r.suite.elastic.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "sandbox: stop Elasticsearch:", err)
			code = max(code, 1)
		}
	}
	if r.suite.server == nil {
		return code
	}
	if err := r.suite.server.Stop(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox: stop PostgreSQL:", err)
		return max(code, 1)
	}
	return code
}

// Postgres returns the server and opens it if need be. A failure ends this test and every later one that asks.
func (s *Suite) Postgres(t TB) *Postgres {
	t.Helper()
	s.once.Do(func() { s.server, s.err = Open(context.WithoutCancel(t.Context()), s.Options) })
	if s.err != nil {
		t.Fatalf("sandbox: %v", s.err)
	}
	return s.server
}

// Redis is the Redis server of the test binary, started if need be, for tests that keep to keys of their own. Those that kill
// or empty a server start their own with TestRedis.
func (s *Suite) Redis(t TB) *Redis {
	t.Helper()
	s.redisOnce.Do(func() { s.redis, s.redisErr = StartRedis(context.WithoutCancel(t.Context())) })
	if s.redisErr != nil {
		t.Fatalf("sandbox: %v", s.redisErr)
	}
	return s.redis
}

// Elasticsearch is the URL of the test binary's Elasticsearch: the server that ELASTICSEARCH_URL names, or one that is started if
// need be. It is for tests that keep to indexes of their own. Those that kill a server start their own with TestElasticsearch.
func (s *Suite) Elasticsearch(t TB) (url string) {
	t.Helper()
	if named := os.Getenv(ElasticsearchURLVariable); named != "" {
		return named
	}
	s.elasticOnce.Do(func() { s.elastic, s.elasticErr = StartElasticsearch(context.WithoutCancel(t.Context())) })
	if s.elasticErr != nil {
		t.Fatalf("sandbox: %v", s.elasticErr)
	}
	return s.elastic.URL()
}

// Database is the URL of a migrated database of this test's own.
func (s *Suite) Database(t TB) (databaseURL string) {
	t.Helper()
	return s.Postgres(t).TestDatabase(t)
}

// EmptyDatabase is the URL of a database of this test's own in which nothing has been migrated.
func (s *Suite) EmptyDatabase(t TB) (databaseURL string) {
	t.Helper()
	return s.Postgres(t).TestEmptyDatabase(t)
}
