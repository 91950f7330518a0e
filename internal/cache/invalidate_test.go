package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestInvalidate(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long", 200)
	all := []Key{
		{"orders", "post", "eu:1"},
		{"orders", "mail", "eu:1"},
		{"parcels", "post", "eu:1"},
		{"orders", "post", "us:1"},
		{"orders", "post", "eu*"},
		{"orders", "post", "1"},
		{"orders", "post", long},
	}
	for name, tt := range map[string]struct {
		selection Selection
		want      []int // of all
	}{
		"a key":                  {Selection{Keys: []string{"eu:1"}}, []int{0, 1, 2}},
		"of an observer":         {Selection{Keys: []string{"eu:1"}, Observer: "orders"}, []int{0, 1}},
		"of an action":           {Selection{Keys: []string{"eu:1", "us:1"}, Action: "post"}, []int{0, 2, 3}},
		"a pattern":              {Selection{Patterns: []string{"eu:*"}}, []int{0, 1, 2}},
		"of both":                {Selection{Patterns: []string{"eu:*"}, Observer: "orders", Action: "post"}, []int{0}},
		"not part of a key":      {Selection{Patterns: []string{"1"}}, []int{5}},
		"a value in a pattern":   {Selection{Patterns: []string{EscapeGlob("eu*")}}, []int{4}},
		"every key by pattern":   {Selection{Patterns: []string{"*"}}, []int{0, 1, 2, 3, 4, 5, 6}},
		"a long key":             {Selection{Keys: []string{long}}, []int{6}},
		"a tag":                  {Selection{Tags: []string{"n0"}}, []int{0}},
		"a long tag":             {Selection{Tags: []string{long}}, []int{0, 1, 2, 3, 4, 5, 6}},
		"tags are not narrowed":  {Selection{Tags: []string{"n0", "n1"}, Observer: "parcels"}, []int{0, 1}},
		"anything of it":         {Selection{Tags: []string{"n3"}, Keys: []string{"1"}, Patterns: []string{"eu[*]"}}, []int{3, 4, 5}},
		"all":                    {Selection{All: true}, []int{0, 1, 2, 3, 4, 5, 6}},
		"all of an observer":     {Selection{All: true, Observer: "parcels"}, []int{2}},
		"all of an action":       {Selection{All: true, Action: "mail"}, []int{1}},
		"nothing":                {Selection{Observer: "orders"}, nil},
		"what is not there":      {Selection{Keys: []string{"eu:2"}, Tags: []string{"eu:1"}, Patterns: []string{"EU*"}}, nil},
		"an observer's wildcard": {Selection{All: true, Observer: "*"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := workers(t, 2)
			for i, k := range all {
				w[0].store(k, fmt.Sprint(i), "n"+strconv.Itoa(i), long)
				w[1].wantHit(k, fmt.Sprint(i))
			}
			w[0].invalidate(tt.selection, len(tt.want))
			for i, k := range all {
				if slices.Contains(tt.want, i) {
					w[1].wantGone(k)
					w[0].wantMiss(k)
				} else {
					w[0].wantHit(k, fmt.Sprint(i))
					w[1].wantHit(k, fmt.Sprint(i))
				}
			}
			if n, err := w[0].remote.Count(t.Context()); err != nil || n < len(all)-len(tt.want) {
				t.Errorf("%d results are left, %v", n, err)
			}
		})
	}
}

func TestInvalidateMany(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	const many = 1500
	for i := range many {
		w[0].store(key(fmt.Sprint(i)), "v", "tag")
	}
	for i := range 10 {
		w[1].wantHit(key(fmt.Sprint(i)), "v")
	}
	if n, err := w[0].remote.Count(t.Context()); n != many || err != nil {
		t.Errorf("%d results, %v", n, err)
	}
	// A tool invalidates, too.
	if n, err := NewRemote(w[1].redis).Invalidate(t.Context(), Selection{Tags: []string{"tag"}}); n != many || err != nil {
		t.Errorf("removed %d, %v", n, err)
	}
	for i := range many {
		w[i%2].wantGone(key(fmt.Sprint(i)))
	}
	if n, err := w[0].remote.Count(t.Context()); n != 0 || err != nil {
		t.Errorf("%d results are left, %v", n, err)
	}
	c := bare(t, at(t, suite.Redis(t).URL()))
	if left, err := c.Exists(t.Context(), w[0].redis.indexOfTag("tag")).Result(); left != 0 || err != nil {
		t.Errorf("the index of the tag is left, %v", err)
	}
}

// A call that began before an invalidation is not stored after it, however it was selected; the next one is.
func TestCallFromBeforeAnInvalidation(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]Selection{
		"key": {Keys: []string{"k"}}, "pattern": {Patterns: []string{"?"}}, "tag": {Tags: []string{"tag"}}, "all": {All: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := workers(t, 2)
			old := w[0].fill(key("k"), "tag")
			w[1].invalidate(s, 0)
			if old.Hold(t.Context(), lease) {
				t.Error("still held")
			}
			young := w[1].fill(key("k"), "tag")
			old.Store(t.Context(), []byte("old"), time.Hour)
			if l := w[0].get(key("k")); l.Found != Busy {
				t.Errorf("found %d, want busy", l.Found)
			}
			young.Store(t.Context(), []byte("young"), time.Hour)
			w[0].wantHit(key("k"), "young")
			for range 3 { // its name is in the index again
				w[0].invalidate(s, 1)
				w[0].wantMiss(key("k"))
				w[1].wantGone(key("k"))
				w[1].store(key("k"), "v", "tag")
			}
		})
	}
}

// A call that makes a result anew began before an invalidation, too: it is not stored after it. Until then what was there stays,
// and calls of others that fail meanwhile do not make it untraceable.
func TestRenewalFromBeforeAnInvalidation(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]Selection{
		"key": {Keys: []string{"k"}}, "pattern": {Patterns: []string{"?"}}, "tag": {Tags: []string{"tag"}}, "all": {All: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := workers(t, 2)
			begin := func() *Renewal {
				t.Helper()
				n, err := w[0].Renew(t.Context(), key("k"), []string{"tag"}, lease)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			end := func(n *Renewal, value string) {
				t.Helper()
				if err := n.Store(t.Context(), []byte(value), time.Hour); err != nil {
					t.Error(err)
				}
			}
			w[1].store(key("k"), "there", "tag")
			n := begin()
			w[0].wantHit(key("k"), "there")
			w[1].invalidate(s, 1)
			end(n, "stale")
			w[0].wantGone(key("k"))
			w[1].wantMiss(key("k"))

			n = begin()
			w[1].fill(key("k"), "tag").Abandon(t.Context())
			w[1].invalidate(s, 0)
			w[1].store(key("k"), "young", "tag")
			end(n, "stale")
			w[0].wantHit(key("k"), "young")

			first, second := begin(), begin()
			end(second, "second")
			end(first, "first")
			w[0].wantHit(key("k"), "second")
			w[1].invalidate(s, 1)
		})
	}
}

// A refresh during an invalidation is gone, or can be invalidated again; and so is a fill.
func TestNamesAreNotLost(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := w[1].Invalidate(t.Context(), Selection{Tags: []string{"tag"}}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for i := range 500 {
		if i%2 == 0 {
			if err := w[0].put(key("k"), []byte("v"), "tag"); err != nil {
				t.Error(err)
			}
		} else if l := w[0].get(key("k"), "tag"); l.Fill != nil {
			l.Fill.Store(t.Context(), []byte("v"), time.Hour)
		}
	}
	close(stop)
	wg.Wait()
	for range 20 {
		_ = w[0].put(key("k"), []byte("v"), "tag")
		w[1].invalidate(Selection{Tags: []string{"tag"}}, 1)
		w[0].wantGone(key("k"))
	}
}

// truth is what calls answer: versions that count up. Who changes one then invalidates it. After that nobody may find what was
// stored from a call before: at once in Redis and at who invalidated, soon elsewhere.
type truth struct {
	version [8]atomic.Int64
	settled [2][8]atomic.Int64 // the least version that each worker may find
}

func (x *truth) change(t *testing.T, w []*worker, by, i int) {
	v := x.version[i].Add(1)
	s := []Selection{
		{Keys: []string{fmt.Sprint(i)}},
		{Tags: []string{fmt.Sprint("tag", i)}},
		{Patterns: []string{fmt.Sprintf("[%d]", i)}},
		{All: true, Observer: "orders"},
	}[rand.IntN(4)]
	if _, err := w[by].Invalidate(t.Context(), s); err != nil {
		t.Error(err)
	}
	raise(&x.settled[by][i], v)
	time.AfterFunc(trustFor, func() { raise(&x.settled[1-by][i], v) })
}

func raise(a *atomic.Int64, v int64) {
	for {
		if old := a.Load(); old >= v || a.CompareAndSwap(old, v) {
			return
		}
	}
}

func (x *truth) look(t *testing.T, w *worker, by, i int) (hit bool) {
	if rand.IntN(5) == 0 {
		x.renew(t, w, i)
	}
	least := x.settled[by][i].Load()
	l := w.Get(t.Context(), key(fmt.Sprint(i)), []string{fmt.Sprint("tag", i), "all"}, lease, time.Second)
	switch l.Found {
	case Hit:
		if got, err := strconv.ParseInt(string(l.Value), 10, 64); err != nil || got < least {
			t.Errorf("worker %d finds version %s of %d, which was invalidated: want %d or more", by, l.Value, i, least)
		}
		return true
	case Miss:
		v := x.version[i].Load()
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		if rand.IntN(10) == 0 {
			l.Fill.Abandon(t.Context())
		} else {
			l.Fill.Store(t.Context(), []byte(strconv.FormatInt(v, 10)), time.Duration(1+rand.IntN(2000))*time.Millisecond)
		}
	case Away:
		t.Error("away")
	case Busy:
	}
	return false
}

// renew makes a version anew.
func (x *truth) renew(t *testing.T, w *worker, i int) {
	n, err := w.Renew(t.Context(), key(fmt.Sprint(i)), []string{fmt.Sprint("tag", i), "all"}, lease)
	if err != nil {
		t.Error(err)
		return
	}
	v := x.version[i].Load()
	time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
	if err := n.Store(t.Context(), []byte(strconv.FormatInt(v, 10)), time.Second); err != nil {
		t.Error(err)
	}
}

func TestNobodyFindsWhatWasInvalidated(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	x := &truth{}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	var hits atomic.Int64
	var wg sync.WaitGroup
	for n := range 12 {
		wg.Go(func() {
			for by := n % 2; ctx.Err() == nil; {
				i := rand.IntN(len(x.version))
				if n < 2 {
					x.change(t, w, by, i)
					time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond)
				} else if x.look(t, w[by], by, i) {
					hits.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if hits.Load() < 100 || w[0].Stats().HitsMemory == 0 || w[0].Stats().NotStored == 0 {
		t.Errorf("%d hits, figures %+v: the test has shown nothing", hits.Load(), w[0].Stats())
	}
	time.Sleep(trustFor + 100*time.Millisecond) // the timers of change
}

// Workers match patterns as the server does.
func TestGlob(t *testing.T) {
	t.Parallel()
	r := connect(t, at(t, suite.Redis(t).URL()), "glob")
	texts := func(alphabet string, n int) string {
		var b strings.Builder
		for range rand.IntN(n + 1) {
			b.WriteByte(alphabet[rand.IntN(len(alphabet))])
		}
		return b.String()
	}
	var members []redis.Z
	for range 300 {
		members = append(members, redis.Z{Member: texts(`abc-*?[]\^`, 6)})
	}
	c := bare(t, at(t, suite.Redis(t).URL()))
	if err := c.ZAdd(t.Context(), r.Key("glob"), members...).Err(); err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		pattern := "x" + texts(`abc-**??[[]]\^`, 8)
		pattern = pattern[1:]
		if pattern == "" {
			continue // no pattern
		}
		pairs, _, err := c.ZScan(t.Context(), r.Key("glob"), 0, pattern, 100_000).Result()
		if err != nil {
			t.Fatal(err)
		}
		matched := map[string]bool{}
		for i := 0; i < len(pairs); i += 2 {
			matched[pairs[i]] = true
		}
		for _, m := range members {
			s := m.Member.(string)
			if s == "" {
				continue // Redis says that only * matches it, and not **
			}
			if got := glob(pattern, s); got != matched[s] {
				t.Errorf("%q matches %q: %t, Redis says %t", pattern, s, got, matched[s])
			}
			if !glob(EscapeGlob(s), s) || !glob("*"+EscapeGlob(s)+"*", "a"+s+"b") {
				t.Errorf("%q is not itself", s)
			}
		}
	}
}

func TestUnlink(t *testing.T) {
	t.Parallel()
	cfg := at(t, suite.Redis(t).URL())
	w := newWorker(t, cfg, "main", ResultsOptions{})
	w.store(key("k"), "v")
	c := bare(t, cfg)
	set := func(keys ...string) {
		for _, k := range keys {
			if err := c.Set(t.Context(), k, "v", time.Hour).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := func(what string, n, want int64, err error) {
		t.Helper()
		if n != want || err != nil {
			t.Errorf("%s: removed %d, %v; want %d", what, n, err, want)
		}
	}
	var many []string
	for i := range 450 {
		many = append(many, fmt.Sprint("unlink:many:", i))
	}
	set(many...)
	n, err := w.redis.Unlink(t.Context(), append(many, "unlink:not there", w.redis.place("orders:post:k")))
	want("keys", n, 450, err)
	n, err = w.redis.Unlink(t.Context(), nil)
	want("no keys", n, 0, err)

	set("unlink:a*", "unlink:ab", "unlink:b")
	n, err = w.redis.UnlinkPattern(t.Context(), EscapeGlob("unlink:a*"))
	want("a value", n, 1, err)
	set(many...)
	n, err = w.redis.UnlinkPattern(t.Context(), "*:k")
	want("only Weir's", n, 0, err)
	n, err = w.redis.UnlinkPattern(t.Context(), "unlink:*")
	want("a pattern", n, 452, err)
	w.memory.clear()
	w.wantHit(key("k"), "v")
}

// Two deliveries with one key may render different tags. Those of the one that stored it count, in every memory.
func TestTagsAreThoseOfWhoStored(t *testing.T) {
	t.Parallel()
	w := workers(t, 2)
	w[0].store(key("k"), "v", "stored", "both")
	for range 2 {
		if l := w[1].get(key("k"), "looked", "both"); l.Found != Hit {
			t.Fatalf("found %d", l.Found)
		}
	}
	w[0].invalidate(Selection{Tags: []string{"looked"}}, 0)
	time.Sleep(50 * time.Millisecond)
	w[1].wantHit(key("k"), "v")
	w[0].invalidate(Selection{Tags: []string{"stored"}}, 1)
	w[1].wantGone(key("k"))
}

// A command whose answer is lost is repeated, and must answer as the first time.
func TestRepeatedCommands(t *testing.T) {
	t.Parallel()
	w := workers(t, 1)[0]
	s := newSubject(key("k"), []string{"tag"})
	f := &Fill{results: w.Results, subject: s, token: "token"}
	for range 2 {
		if a, err := w.claim(t.Context(), s, f.token, lease); a.kind != 'm' || err != nil {
			t.Errorf("looked up: %c, %v", a.kind, err)
		}
	}
	for range 2 {
		if held, err := f.renew(t.Context(), lease); !held || err != nil {
			t.Errorf("renewed: %t, %v", held, err)
		}
	}
	for range 2 {
		if stored, err := f.store(t.Context(), []byte("v"), time.Hour); !stored || err != nil {
			t.Errorf("stored: %t, %v", stored, err)
		}
	}
	w.wantHit(key("k"), "v")
}
