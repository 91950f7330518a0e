package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/fraiseql/weir/internal/sandbox"
)

// restartTime is how long a restart of PostgreSQL may take. A fast one waits for what reads the WAL, which may be a stopped
// worker: as an administrator would, we do not wait for that for ever.
const restartTime = 15 * time.Second

// ground is what faults are done to.
type ground struct {
	postgres *sandbox.Postgres
	redis    *sandbox.Redis
	elastic  *sandbox.Elasticsearch // nil: none
	receiver *receiver
	workers  []*worker
	watch    *watch
	tell     func(string)

	postgresMu, redisMu, elasticMu sync.Mutex // one thing at a time is done to each

	mu     sync.Mutex // guards the rest
	counts map[Kind]int
	bad    []error // faults that could not be done or mended
}

// carryOut does what the plan says until it is done or ctx ends, and returns when everything is mended.
func (g *ground) carryOut(ctx context.Context, plan []Fault) {
	began := time.Now()
	var running sync.WaitGroup
	for _, f := range plan {
		select {
		case <-time.After(time.Until(began.Add(f.At))):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		g.tell(f.String())
		running.Go(func() {
			if err := g.suffer(ctx, f); err != nil && ctx.Err() == nil {
				g.failed(fmt.Errorf("%s: %w", f.Kind, err))
			}
		})
	}
	running.Wait()
}

func (g *ground) failed(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bad = append(g.bad, err)
	g.tell("harness: " + err.Error())
}

func (g *ground) count(k Kind) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.counts[k]++
}

// suffer does one fault from its beginning to its end.
func (g *ground) suffer(ctx context.Context, f Fault) error {
	lasts := func() { rest(ctx, f.For) }
	g.count(f.Kind)
	switch f.Kind {
	case PostgresFast, PostgresCrash, PostgresKill:
		return g.sufferPostgres(ctx, f)
	case RedisKill, RedisFlush, RedisStop:
		return g.sufferRedis(ctx, f)
	case ElasticKill, ElasticStop:
		return g.sufferElastic(ctx, f)
	case ReceiverAway, ReceiverFails, ReceiverSlow, ReceiverHangs, ReceiverResets:
		g.receiver.suffer(f)
		lasts()
		g.receiver.mend(f.Path)
		return nil
	case PostgresAllCut:
		for _, w := range g.workers {
			w.postgres.cut()
		}
		lasts()
		for _, w := range g.workers {
			w.postgres.mend()
		}
		return nil
	case PostgresCut, PostgresSilent, PostgresLatency:
		return g.sufferNetwork(ctx, g.workers[f.Worker].postgres, f)
	case RedisCut, RedisSilent, RedisLatency:
		return g.sufferNetwork(ctx, g.workers[f.Worker].redis, f)
	case SlotDropped, SlotInvalidated:
		return g.watch.takeSlot(ctx, f.Kind)
	default:
		return g.sufferWorker(ctx, f)
	}
}

// rest waits for a fault's time, or for the end of the run, when everything is mended at once.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (g *ground) sufferNetwork(ctx context.Context, r *relay, f Fault) error {
	switch f.Kind {
	case PostgresCut, RedisCut:
		r.cut()
	case PostgresSilent, RedisSilent:
		r.silence()
	default:
		r.delay(f.Latency)
	}
	rest(ctx, f.For)
	r.mend()
	return nil
}

func (g *ground) sufferWorker(ctx context.Context, f Fault) error {
	after := context.WithoutCancel(ctx)
	if f.Kind == RollWorkers {
		for _, w := range g.workers {
			if err := errors.Join(w.terminate(), w.start(after, false)); err != nil {
				return err
			}
			rest(ctx, f.For)
		}
		return nil
	}
	w := g.victim(ctx, f)
	var err error
	switch f.Kind {
	case KillOwner, KillWorker:
		err = w.kill()
	case TermWorker:
		err = w.terminate()
	case StopOwner, StopWorker:
		err = w.signal(syscall.SIGSTOP)
		rest(ctx, f.For)
		return errors.Join(err, w.signal(syscall.SIGCONT))
	case LogFull:
		err = errors.Join(w.kill(), w.start(after, true))
		rest(ctx, f.For)
		return errors.Join(err, w.kill(), w.start(after, false))
	default:
		return fmt.Errorf("nobody knows how to do %s", f.Kind)
	}
	rest(ctx, f.For)
	return errors.Join(err, w.start(after, false))
}

// victim is the worker of a fault: the named one, or the owner of the stream, or some other when nobody owns it.
func (g *ground) victim(ctx context.Context, f Fault) *worker {
	if f.Worker >= 0 {
		return g.workers[f.Worker]
	}
	if pid, err := g.watch.owner(ctx); err == nil {
		for _, w := range g.workers {
			if w.pid() == pid && pid != 0 {
				return w
			}
		}
	}
	return g.workers[int(f.At/time.Millisecond)%len(g.workers)]
}

func (g *ground) sufferPostgres(ctx context.Context, f Fault) error {
	g.postgresMu.Lock()
	defer g.postgresMu.Unlock()
	after := context.WithoutCancel(ctx)
	switch f.Kind {
	case PostgresFast:
		bounded, cancel := context.WithTimeout(after, restartTime)
		defer cancel()
		if g.postgres.Restart(bounded, sandbox.Fast) == nil {
			return nil
		}
	case PostgresKill:
		err := g.postgres.Kill()
		rest(ctx, f.For)
		return errors.Join(err, g.postgres.Restart(after, sandbox.Immediate))
	default:
	}
	return g.postgres.Restart(after, sandbox.Immediate)
}

func (g *ground) sufferRedis(ctx context.Context, f Fault) error {
	g.redisMu.Lock()
	defer g.redisMu.Unlock()
	switch f.Kind {
	case RedisFlush:
		return flush(ctx, g.redis.Addr())
	case RedisStop:
		err := g.redis.Process().Signal(syscall.SIGSTOP)
		rest(ctx, f.For)
		return errors.Join(err, g.redis.Process().Signal(syscall.SIGCONT))
	default:
	}
	err := g.redis.Kill()
	rest(ctx, f.For)
	return errors.Join(err, g.redis.Start(context.WithoutCancel(ctx)))
}

// flush empties a Redis. Its inline commands need no client.
func flush(ctx context.Context, addr string) error {
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("FLUSHALL\r\n")); err != nil {
		return err
	}
	answer := make([]byte, 64)
	n, err := conn.Read(answer)
	if err == nil && answer[0] != '+' {
		return fmt.Errorf("FLUSHALL: %s", answer[:n])
	}
	return err
}

func (g *ground) sufferElastic(ctx context.Context, f Fault) error {
	g.elasticMu.Lock()
	defer g.elasticMu.Unlock()
	if f.Kind == ElasticStop {
		err := g.elastic.Process().Signal(syscall.SIGSTOP)
		rest(ctx, f.For)
		return errors.Join(err, g.elastic.Process().Signal(syscall.SIGCONT))
	}
	err := g.elastic.Kill()
	rest(ctx, f.For)
	return errors.Join(err, g.elastic.Start(context.WithoutCancel(ctx)))
}

// mend puts everything right, whatever the plan has left.
func (g *ground) mend(ctx context.Context) error {
	var errs []error
	for _, path := range paths {
		g.receiver.mend(path)
	}
	for _, w := range g.workers {
		w.postgres.mend()
		w.redis.mend()
		errs = append(errs, w.signal(syscall.SIGCONT))
		if w.logFull() {
			errs = append(errs, w.kill())
		}
		errs = append(errs, w.start(ctx, false))
	}
	return errors.Join(errs...)
}
