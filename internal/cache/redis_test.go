package cache

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/fraiseql/weir/internal/sandbox"
	"github.com/fraiseql/weir/internal/setting"
)

func hang(t *testing.T, server *sandbox.Redis) { signal(t, server, syscall.SIGSTOP) }
func goOn(t *testing.T, server *sandbox.Redis) { signal(t, server, syscall.SIGCONT) }

func signal(t *testing.T, server *sandbox.Redis, s os.Signal) {
	t.Helper()
	if err := server.Process().Signal(s); err != nil {
		t.Fatal(err)
	}
}

// read is a section redis: as weir.yaml has it.
func read(t *testing.T, dir, text string) Config {
	t.Helper()
	ctx := setting.NewContext(t.Context(), setting.Surroundings{Dir: dir, Lookup: func(name string) (string, bool) {
		v, ok := map[string]string{"REDIS_USER": "weir", "REDIS_PASSWORD": secret}[name]
		return v, ok
	}})
	var cfg Config
	if err := yaml.NewDecoder(strings.NewReader(text), yaml.Strict()).DecodeContext(ctx, &cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Timeout = slow
	return cfg
}

// set is a command such as deduplication's.
func set(t *testing.T, r *Redis) error {
	t.Helper()
	return r.Do(t.Context(), func(ctx context.Context, c redis.UniversalClient) error {
		return c.Set(ctx, r.Key("test"), "v", time.Minute).Err()
	})
}

// serves says whether a server does all that is asked of one.
func serves(t *testing.T, cfg Config) {
	t.Helper()
	w := newWorker(t, cfg, "main", ResultsOptions{})
	if err := set(t, w.redis); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		w.store(key(fmt.Sprint(i)), "v", "tag", fmt.Sprint("tag", i))
		w.wantHit(key(fmt.Sprint(i)), "v")
	}
	other := newWorker(t, cfg, "main", ResultsOptions{})
	other.wantHit(key("1"), "v")
	w.invalidate(Selection{Keys: []string{"0"}, Tags: []string{"tag1"}}, 2)
	w.invalidate(Selection{Tags: []string{"tag"}}, 18)
	other.wantGone(key("1"))
	c := bare(t, cfg)
	for i := range 300 {
		if err := c.Set(t.Context(), fmt.Sprint("app:", i), "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := w.redis.Unlink(t.Context(), []string{"app:0", "app:1", "app:2"}); n != 3 || err != nil {
		t.Errorf("unlinked %d, %v", n, err)
	}
	if n, err := w.redis.UnlinkPattern(t.Context(), "app:*"); n != 297 || err != nil {
		t.Errorf("unlinked %d by a pattern, %v", n, err)
	}
	if trouble := w.redis.Trouble(); trouble != "" {
		t.Errorf("trouble: %s", trouble)
	}
}

const secret = "p@ss:w/rd"

func TestUserAndPassword(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t, "--user", "default", "off", "--user", "weir", "on", ">"+secret, "~*", "&*", "+@all")
	serves(t, at(t, "redis://weir:p%40ss%3Aw%2Frd@"+server.Addr()+"/3"))
	serves(t, read(t, "", "url: redis://"+server.Addr()+"\nusername_env: REDIS_USER\npassword_env: REDIS_PASSWORD"))
}

func TestPasswordAlone(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t, "--requirepass", secret)
	serves(t, at(t, "redis://:p%40ss%3Aw%2Frd@"+server.Addr()))
	serves(t, read(t, "", "url: redis://"+server.Addr()+"\npassword_env: REDIS_PASSWORD"))
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t, "--requirepass", "another")
	log := &sandbox.Output{}
	r := Open(at(t, "redis://weir:p%40ss%3Aw%2Frd@"+server.Addr()), slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry())
	defer r.Close()
	r.Name("main", "")
	away := (*AwayError)(nil)
	var errs string
	for range awayAfter + 1 {
		err := set(t, r)
		if !errors.As(err, &away) {
			t.Fatalf("got %v", err)
		}
		errs += err.Error()
	}
	if !strings.Contains(r.Trouble(), server.Addr()) || !strings.Contains(r.Trouble(), "WRONGPASS") {
		t.Errorf("trouble: %q", r.Trouble())
	}
	if !strings.Contains(log.String(), "WRONGPASS") {
		t.Errorf("logged: %s", log)
	}
	for _, text := range []string{r.Trouble(), log.String(), errs, r.cfg.String(), fmt.Sprintf("%+v", r.cfg), fmt.Sprintf("%d", r.cfg.URL)} {
		if strings.Contains(text, "ss:w") || strings.Contains(text, "%40") || strings.Contains(text, "40ss") {
			t.Errorf("the password shows: %s", text)
		}
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"http://u:hunter2@host", "redis://u:hunter2@", "redis://u:hunter2@host:port", "redis://u:hunter2@host/database",
		"redis://u:hunter2@host?db=1", "redis://u:hunter2@host#x", "redis://u:hunter2%@host", "redis://u:hunter2@ho st", "hunter2",
		"redis://u:hunter2@host/1/2", "redis://u:hunter2\x00@host",
	} {
		_, err := ParseURL(s)
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "expected redis://") {
			t.Errorf("%q: %v", s, err)
		}
	}
	u, err := ParseURL("rediss://u:hunter2@host/4")
	if err != nil || u.String() != "rediss://u@host/4" || u.Value() != "rediss://u:hunter2@host/4" {
		t.Errorf("got %q, %q, %v", u, u.Value(), err)
	}
	o := Config{URL: u}.WithDefaults().options()
	if o.Addrs[0] != "host:6379" || o.DB != 4 || o.TLSConfig == nil || o.Username != "u" || o.Password != "hunter2" || o.IsClusterMode {
		t.Errorf("options %+v", o.Addrs)
	}
}

// pair writes a certificate and its key, signed by parent, or by itself.
type pair struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newPair(t *testing.T, dir, name string, parent *pair) *pair {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: parent == nil, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent = &pair{template, private}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent.certificate, &private.PublicKey, parent.key)
	if err != nil {
		t.Fatal(err)
	}
	rawKey, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: raw}, name + ".key": {Type: "EC PRIVATE KEY", Bytes: rawKey},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{certificate, private}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newPair(t, dir, "server", newPair(t, dir, "ca", nil))
	newPair(t, dir, "other", nil)
	server := sandbox.TestRedis(t, "--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no",
		"--tls-cert-file", filepath.Join(dir, "server.pem"), "--tls-key-file", filepath.Join(dir, "server.key"),
		"--tls-ca-cert-file", filepath.Join(dir, "ca.pem"))
	serves(t, read(t, dir, "url: rediss://"+server.Addr()+"\nca_file: ca.pem"))
	for text, want := range map[string]string{
		"url: rediss://" + server.Addr():                          "unknown authority",
		"url: rediss://" + server.Addr() + "\nca_file: other.pem": "unknown authority",
		"url: redis://" + server.Addr():                           "",
	} {
		r := Open(read(t, dir, text), quiet(), prometheus.NewRegistry())
		r.Name("main", "")
		if err := set(t, r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
		r.Close()
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	first := sandbox.TestRedis(t)
	_, port, _ := net.SplitHostPort(first.Addr())
	second := sandbox.TestRedis(t, "--replicaof", "127.0.0.1 "+port)
	sentinel := "127.0.0.1:" + freePort(t)
	file := filepath.Join(first.Dir(), "sentinel.conf")
	_, sentinelPort, _ := net.SplitHostPort(sentinel)
	text := "port " + sentinelPort + "\nbind 127.0.0.1\ndir " + first.Dir() + "\nsentinel monitor weir 127.0.0.1 " + port + " 1\n" +
		"sentinel down-after-milliseconds weir 500\nsentinel failover-timeout weir 3000\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	process, err := sandbox.StartProcess(context.WithoutCancel(t.Context()), "redis-server", []string{file, "--sentinel"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Kill() })
	asked := redis.NewSentinelClient(&redis.Options{Addr: sentinel})
	t.Cleanup(func() { _ = asked.Close() })
	eventually(t, 20*time.Second, "the Sentinel knows both servers", func() bool {
		replicas, err := asked.Replicas(t.Context(), "weir").Result()
		return err == nil && len(replicas) == 1 && strings.Contains(fmt.Sprint(replicas), "master-link-status:ok")
	})
	cfg := Config{Addrs: []string{sentinel}, MasterName: "weir", Timeout: slow}
	serves(t, cfg)

	w := newWorker(t, cfg, "failover", ResultsOptions{})
	w.store(key("k"), "v")
	master := redis.NewClient(&redis.Options{Addr: first.Addr()})
	t.Cleanup(func() { _ = master.Close() })
	eventually(t, 20*time.Second, "the other server has it", func() bool { // nobody promises that: replication lags behind
		info, err := master.Info(t.Context(), "replication").Result()
		_, position, found := strings.Cut(info, "master_repl_offset:")
		position, _, _ = strings.Cut(position, "\r")
		return err == nil && found && strings.Contains(info, ",offset="+position+",")
	})
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the other server serves", func() bool { return set(t, w.redis) == nil && w.trusts() })
	w.wantHit(key("k"), "v")
	w.invalidate(Selection{Keys: []string{"k"}}, 1)
	if err := second.Kill(); err != nil {
		t.Fatal(err)
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	var addrs []string
	var nodes []*redis.Client
	for range 3 {
		server := sandbox.TestRedis(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
		node := redis.NewClient(&redis.Options{Addr: server.Addr()})
		t.Cleanup(func() { _ = node.Close() })
		addrs, nodes = append(addrs, server.Addr()), append(nodes, node)
	}
	const slots = 16384
	for i, node := range nodes {
		if err := node.ClusterAddSlotsRange(t.Context(), i*slots/3, (i+1)*slots/3-1).Err(); err != nil {
			t.Fatal(err)
		}
		host, port, _ := net.SplitHostPort(addrs[i])
		if err := nodes[0].ClusterMeet(t.Context(), host, port).Err(); i > 0 && err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range nodes {
		eventually(t, 30*time.Second, "the Cluster stands", func() bool {
			info, err := node.ClusterInfo(t.Context()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	serves(t, Config{Addrs: addrs, Timeout: slow})
	serves(t, Config{Addrs: addrs[1:2], Timeout: slow})
}

// A server that hangs costs a few commands their timeout, and no more than that.
func TestTimeout(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t)
	cfg := at(t, server.URL())
	cfg.Timeout = 0
	r := connect(t, cfg, "main")
	eventually(t, 5*time.Second, "it serves", func() bool { return set(t, r) == nil })
	hang(t, server)
	for range awayAfter {
		began := time.Now()
		if err := set(t, r); err == nil {
			t.Fatal("a server that hangs has answered")
		}
		if took := time.Since(began); took > 400*time.Millisecond {
			t.Errorf("a command took %s", took)
		}
	}
	eventually(t, time.Second, "it is away", r.isAway)
	began := time.Now()
	for range 100 {
		if err := set(t, r); !errors.Is(err, errAway) {
			t.Fatalf("got %v", err)
		}
	}
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("100 commands took %s", took)
	}
	if !strings.Contains(r.Trouble(), "no answer within 100ms") || testutil.ToFloat64(r.metrics.up) != 0 {
		t.Errorf("trouble: %q, up %v", r.Trouble(), testutil.ToFloat64(r.metrics.up))
	}
	goOn(t, server)
	eventually(t, 5*time.Second, "it serves again", func() bool { return set(t, r) == nil })
	if r.Trouble() != "" || testutil.ToFloat64(r.metrics.up) != 1 {
		t.Errorf("trouble: %q", r.Trouble())
	}
}

// Who does not wait any more has said nothing about Redis.
func TestAskerHangsUp(t *testing.T) {
	t.Parallel()
	r := connect(t, at(t, suite.Redis(t).URL()), "main")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	away := (*AwayError)(nil)
	for range 2 * awayAfter {
		err := r.Do(ctx, func(ctx context.Context, c redis.UniversalClient) error { return c.Get(ctx, r.Key("x")).Err() })
		if !errors.As(err, &away) {
			t.Fatalf("got %v", err)
		}
	}
	if err := set(t, r); err != nil || r.Trouble() != "" {
		t.Errorf("%v, trouble %q", err, r.Trouble())
	}
}

func TestUnnamed(t *testing.T) {
	t.Parallel()
	r := Open(at(t, suite.Redis(t).URL()), quiet(), prometheus.NewRegistry())
	defer r.Close()
	away := (*AwayError)(nil)
	if err := set(t, r); !errors.As(err, &away) {
		t.Errorf("got %v", err)
	}
	w := &worker{NewResults(r, ResultsOptions{Logger: quiet(), Registerer: prometheus.NewRegistry()}), t}
	run(t, w.Run)
	if l := w.get(key("k")); l.Found != Away {
		t.Errorf("found %d", l.Found)
	}
}
