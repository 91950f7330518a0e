package capture

import (
	"context"
	"net"
	"syscall"
	"time"
)

const (
	keepIdle     = 5 * time.Second
	keepInterval = 2 * time.Second
	keepCount    = 3
	// unheardLimit is how long what we send may go unacknowledged.
	unheardLimit = keepIdle + (keepCount+1)*keepInterval
)

// Dial is a pgx DialFunc that has the kernel find out that the other side is gone: a host that is off, a network that is
// cut. Keepalives say so while nothing is under way, and TCP_USER_TIMEOUT, where there is one, while something is: our status
// messages mostly are. The kernel of a server that is merely busy answers both.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepIdle, Interval: keepInterval, Count: keepCount},
		Control: func(network, _ string, raw syscall.RawConn) error {
			if network != "tcp" && network != "tcp4" && network != "tcp6" {
				return nil
			}
			var err error
			if failed := raw.Control(func(fd uintptr) { err = limitUnheard(fd, unheardLimit) }); failed != nil {
				return failed
			}
			return err
		},
	}
	return d.DialContext(ctx, network, address)
}
