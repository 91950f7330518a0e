package worker

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unheardFor is a dialer's Control that bounds how long data may stay unacknowledged (TCP_USER_TIMEOUT, tcp(7)).
func unheardFor(limit time.Duration) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		if network == "unix" {
			return nil
		}
		var err error
		if controlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
		}); controlErr != nil {
			return controlErr
		}
		return err
	}
}
