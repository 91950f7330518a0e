// Command receiver runs the example's receiver by itself and prints what it gets:
//
//	ORDERS_SECRET=… go run ./examples/orders/receiver -listen 127.0.0.1:8090
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fraiseql/weir/examples/orders"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8090", "the `address` to listen on")
	flag.Parse()
	//nolint:forbidigo // this is a main, too
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *listen, os.Getenv("ORDERS_SECRET"), os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "receiver:", err)
		os.Exit(1) //nolint:forbidigo // this is a main, too
	}
}

func run(ctx context.Context, listen, secret string, out io.Writer) error {
	receiver, err := orders.NewReceiver(orders.ReceiverOptions{Secret: secret, Notify: func(r orders.Request) { show(out, r) }})
	if err != nil {
		return fmt.Errorf("ORDERS_SECRET: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "listening on http://%s\n", listener.Addr())
	server := &http.Server{Handler: receiver, ReadHeaderTimeout: 5 * time.Second}
	undo := context.AfterFunc(ctx, func() { _ = server.Close() }) // repeats are harmless
	defer undo()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func show(out io.Writer, r orders.Request) {
	verdict := "both signatures valid"
	switch {
	case r.Err != nil:
		verdict = r.Err.Error()
	case r.Repeat:
		verdict += ", seen before: dropped"
	}
	fmt.Fprintf(out, "%s  %d  %-16s %s  %s\n%s\n\n",
		time.Now().Format(time.TimeOnly), r.Status, r.Path, r.ID, verdict, bytes.TrimSpace(r.Body))
}
