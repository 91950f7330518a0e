package ops_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fraiseql/weir/internal/ops"
)

// between is what a pooler does to the messages of its n-th client, from 0. nil changes nothing.
type between struct {
	toServer func(n int, kind byte, body []byte) []byte // the body that is sent on
	toClient func(n int, kind byte, message []byte) []byte
	refuses  string // a parameter in a client's first message, as an old PgBouncer refuses those that it does not know
}

// startPooler listens in front of a server and returns the way through it.
func startPooler(t *testing.T, databaseURL string, b between) string {
	t.Helper()
	through, err := url.Parse(databaseURL)
	check(t, err)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	var open sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); open.Wait() })
	server := through.Host
	var clients atomic.Int32
	open.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			n := int(clients.Add(1)) - 1
			open.Go(func() { b.requests(n, client, upstream); _ = upstream.Close() })
			open.Go(func() { b.answers(n, client, upstream); _ = client.Close() })
		}
	})
	through.Host = listener.Addr().String()
	return through.String()
}

func (b between) requests(n int, client io.ReadWriter, server io.Writer) {
	length := make([]byte, 4) // the first message has no type
	if _, err := io.ReadFull(client, length); err != nil {
		return
	}
	startup := make([]byte, binary.BigEndian.Uint32(length)-4)
	if _, err := io.ReadFull(client, startup); err != nil {
		return
	}
	if b.refuses != "" && bytes.Contains(startup, []byte("\x00"+b.refuses+"\x00")) {
		body := "SFATAL\x00C08P01\x00Munsupported startup parameter: " + b.refuses + "\x00\x00"
		_, _ = client.Write(message('E', []byte(body)))
		return
	}
	if _, err := server.Write(slices.Concat(length, startup)); err != nil {
		return
	}
	for {
		kind, body, err := readMessage(client)
		if err != nil {
			return
		}
		if b.toServer != nil {
			body = b.toServer(n, kind, body)
		}
		if _, err := server.Write(message(kind, body)); err != nil {
			return
		}
	}
}

func (b between) answers(n int, client io.Writer, server io.Reader) {
	for {
		kind, body, err := readMessage(server)
		if err != nil {
			return
		}
		m := message(kind, body)
		if b.toClient != nil {
			m = b.toClient(n, kind, m)
		}
		if _, err := client.Write(m); err != nil {
			return
		}
	}
}

func readMessage(r io.Reader) (kind byte, body []byte, err error) {
	header := make([]byte, 5)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(header[1:])-4)
	_, err = io.ReadFull(r, body)
	return header[0], body, err
}

func message(kind byte, body []byte) []byte {
	return slices.Concat(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4)), body)
}

// TestDoctorNotifications has what a pooler in transaction mode does: notifications do not come to the client that listens,
// but to whoever has the server's session that listened.
func TestDoctorNotifications(t *testing.T) {
	t.Parallel()
	databaseURL := postgres.Database(t)
	direct := session(t, databaseURL)
	pooled := session(t, startPooler(t, databaseURL, between{toClient: func(n int, kind byte, m []byte) []byte {
		switch {
		case kind == 'A':
			return nil
		case kind == 'C' && n > 0: // process, channel, payload
			return slices.Concat(message('A', []byte("\x00\x00\x00\x01weir_doctor\x00\x00")), m)
		}
		return m
	}}))
	none := one(t, diagnose(t, pooled, direct, slotOf(t, direct)), "notifications", ops.LevelWarning)
	if !strings.Contains(none.Problem, "pooler") {
		t.Errorf("problem %q", none.Problem)
	}
	_ = pooled.Close(context.WithoutCancel(t.Context())) // before the listener
}

// TestDoctorPreparedStatements has a statement executed on a session that does not know it.
func TestDoctorPreparedStatements(t *testing.T) {
	t.Parallel()
	databaseURL := postgres.Database(t)
	direct := session(t, databaseURL)
	pooled := session(t, startPooler(t, databaseURL, between{toServer: func(_ int, kind byte, body []byte) []byte {
		if kind == 'B' { // portal, statement, …
			return bytes.Replace(body, []byte("\x00weir_doctor_"), []byte("\x00else_doctor_"), 1)
		}
		return body
	}}))
	lost := one(t, diagnose(t, pooled, direct, slotOf(t, direct)), "prepared statements", ops.LevelError)
	if !strings.Contains(lost.Problem, "pooler") || !strings.Contains(lost.Mend, "max_prepared_statements") {
		t.Errorf("got %+v", lost)
	}
	_ = pooled.Close(context.WithoutCancel(t.Context()))
}

// TestDoctorRefusedReplication: what refuses the protocol is not the server, and no other mend helps.
func TestDoctorRefusedReplication(t *testing.T) {
	t.Parallel()
	databaseURL := postgres.Database(t)
	direct := session(t, databaseURL)
	pooled := session(t, startPooler(t, databaseURL, between{refuses: "replication"}))
	refused := one(t, diagnose(t, direct, pooled, slotOf(t, direct)), "checkpoint", ops.LevelError)
	if !strings.Contains(refused.Problem, "unsupported startup parameter: replication") ||
		!strings.HasPrefix(refused.Mend, "-- let source.url name the server itself") {
		t.Errorf("got %+v", refused)
	}
	_ = pooled.Close(context.WithoutCancel(t.Context()))
}
