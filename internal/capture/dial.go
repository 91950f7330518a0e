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
	// unheardLimit is how long what we send may go unacknowledged, and patientLimit how long where the server may have a
	// reason to take nothing for a while.
	unheardLimit = keepIdle + (keepCount+1)*keepInterval
	patientLimit = time.Minute
)

// Dial is a pgx DialFunc that has the kernel find out that the other side is gone: a host that is off, a network that is
// cut. Keepalives say so while nothing is under way, and TCP_USER_TIMEOUT, where there is one, while something is: our status
// messages mostly are. The kernel of a server that is merely busy answers both, until it has no room for more: then the limit
// of what is unacknowledged holds for the server, too (see stream.statusDue).
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return dialer(unheardLimit).DialContext(ctx, network, address)
}

// dialPatiently is Dial for the connection that stores batches: a large one fills it while the server waits for a lock.
func dialPatiently(ctx context.Context, network, address string) (net.Conn, error) {
	return dialer(patientLimit).DialContext(ctx, network, address)
}

func dialer(unheard time.Duration) *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepIdle, Interval: keepInterval, Count: keepCount},
		Control: func(network, _ string, raw syscall.RawConn) error {
			if network != "tcp" && network != "tcp4" && network != "tcp6" {
				return nil
			}
			var err error
			if failed := raw.Control(func(fd uintptr) { err = limitUnheard(fd, unheard) }); failed != nil {
				return failed
			}
			return err
		},
	}
}
