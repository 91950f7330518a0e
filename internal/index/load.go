package index

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/store"
)

const (
	// loadMost bounds how many events a query reads. Their deliveries hold them all anyway.
	loadMost = 100
	// loadQueries bounds how many queries read events at the same time: a connection each, of those that River has, too.
	loadQueries = 2
	// loadGather is how long a query waits for others that ask: the deliveries that River starts at once come one after the other.
	loadGather = 2 * time.Millisecond
	// loadTime bounds a query: a connection may be dead without anybody having said so.
	loadTime = 10 * time.Second
)

// Load returns an event, or ErrNotFound. What is not in memory is read together with what others ask for at the same time: River
// starts many deliveries at once, and a query each would cost more than all the rest that is done for a delivery. So all callers
// are to give the same database.
func (x *Index) Load(ctx context.Context, db store.DBTX, key Key) (Record, error) {
	for _, kept := range []*recent{&x.recent, &x.loaded} {
		if r, ok := kept.get(key); ok {
			return r, nil
		}
	}
	one := &wanted{key: key, found: make(chan struct{})}
	if x.loader.add(one) {
		go x.load(context.WithoutCancel(ctx), db)
	}
	select {
	case <-one.found:
		return one.record, one.err
	case <-ctx.Done():
		return Record{}, fmt.Errorf("load event %s: %w", key.ID, ctx.Err())
	}
}

// wanted is an event that somebody waits for.
type wanted struct {
	key    Key
	found  chan struct{} // closed when the rest is there
	record Record
	err    error
}

// loader is who waits for events, and how many queries are under way.
type loader struct {
	mu      sync.Mutex // guards the rest
	waiting []*wanted
	queries int
}

// add returns true when there is to be another query. Whoever comes while there are enough waits for the next one.
func (l *loader) add(one *wanted) (start bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, one)
	if start = l.queries < loadQueries; start {
		l.queries++
	}
	return start
}

// take returns what the next query reads; nothing ends the queries of who asks.
func (l *loader) take() []*wanted {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.waiting), loadMost)
	some := l.waiting[:n:n]
	if l.waiting = l.waiting[n:]; n == 0 {
		l.queries--
	}
	return some
}

// load reads until nobody waits.
func (x *Index) load(ctx context.Context, db store.DBTX) {
	time.Sleep(loadGather)
	for some := x.loader.take(); len(some) > 0; some = x.loader.take() {
		found, err := x.read(ctx, db, some)
		for _, one := range some {
			row, ok := found[one.key]
			switch {
			case err != nil:
				one.err = fmt.Errorf("load event %s: %w", one.key.ID, err)
			case !ok:
				one.err = ErrNotFound
			default:
				one.record, one.err = x.keep(one.key, row)
			}
			close(one.found)
		}
	}
}

func (x *Index) read(ctx context.Context, db store.DBTX, some []*wanted) (map[Key]store.LoadEventsRow, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	var p store.LoadEventsParams
	for _, one := range some {
		p.Days, p.IDs, p.PKs = append(p.Days, one.key.Day), append(p.IDs, one.key.ID), append(p.PKs, one.key.PK)
	}
	rows, err := store.New().LoadEvents(ctx, db, p)
	found := make(map[Key]store.LoadEventsRow, len(rows))
	for _, row := range rows {
		found[Key{Day: row.Day, ID: row.ID, PK: row.PK}] = row
	}
	return found, err
}

// keep makes an event of a row, and keeps it in memory: it has other deliveries.
func (x *Index) keep(key Key, row store.LoadEventsRow) (Record, error) {
	e, err := event.Parse(row.FullPayload)
	if err != nil {
		return Record{}, err
	}
	e.PK, e.TxIndex = row.PK, row.TxIndex
	r := Record{Event: e, Payload: row.FullPayload}
	x.loaded.put(key, r)
	return r, nil
}
