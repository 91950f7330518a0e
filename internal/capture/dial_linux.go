package capture

import (
	"os"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall does not have: tcp(7).
const tcpUserTimeout = 18

func limitUnheard(fd uintptr, limit time.Duration) error {
	err := syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(limit.Milliseconds()))
	return os.NewSyscallError("setsockopt", err)
}
