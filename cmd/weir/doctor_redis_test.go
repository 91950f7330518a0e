package main

import (
	"fmt"
	"testing"

	"github.com/fraiseql/weir/internal/sandbox"
)

func TestDoctorLooksAtRedis(t *testing.T) {
	t.Parallel()
	server := sandbox.TestRedis(t)
	forgetful := sandbox.TestRedis(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	url, db := database(t)
	ask := func(redisURL string) result {
		t.Helper()
		path, _ := slotFile(t, db, fmt.Sprintf("redis: {url: %q, timeout: 5s}\n", redisURL))
		return weir(t, "doctor", "--config", path, "--database-url", url).exits(0)
	}
	ask(server.URL()).says("ok       redis", "it serves, version ")
	ask(forgetful.URL()).says("warning  redis", "it evicts any key (allkeys-lru)", "CONFIG SET maxmemory-policy noeviction")
	check(t, server.Kill())
	ask(server.URL()).says("warning  redis", "without dedup and result cache", "connection refused")
}
