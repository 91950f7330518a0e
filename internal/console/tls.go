package console

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/fraiseql/weir/internal/config"
)

// certificate is read again when one of its files has changed: who renews it need not restart anything. It is safe for
// concurrent use.
type certificate struct {
	files config.TLS
	log   *slog.Logger

	mu      sync.Mutex // guards the rest
	current *tls.Certificate
	changed [2]time.Time // the files, when they were read last
}

// get is for tls.Config. A pair that cannot be used (half of a renewal, most likely) leaves the one before in force.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := [2]time.Time{modified(string(c.files.Cert)), modified(string(c.files.Key))}
	if c.current != nil && changed == c.changed {
		return c.current, nil
	}
	pair, err := tls.LoadX509KeyPair(string(c.files.Cert), string(c.files.Key))
	switch {
	case err == nil && c.current != nil:
		c.log.Info("certificate renewed", "file", string(c.files.Cert))
	case err != nil && c.current == nil:
		return nil, err
	case err != nil:
		c.log.Warn("the new certificate cannot be used: the one before stays in force", "error", err)
		c.changed = changed
		return c.current, nil
	}
	c.current, c.changed = &pair, changed
	return c.current, nil
}

// modified is when a file was changed last, the zero time if it cannot be looked at.
func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
