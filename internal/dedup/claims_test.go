package dedup_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/dedup"
)

var order42 = dedup.Key{Observer: "order-paid", Action: "mail", Key: "order 42"}

// long is longer than any test takes, brief is over before anybody gets bored.
const (
	long  = time.Hour
	brief = 50 * time.Millisecond
)

// claims asks for a claim and wants this answer.
func (p place) claims(t *testing.T, k dedup.Key, h dedup.Holder, lease time.Duration, want dedup.Answer) {
	t.Helper()
	got, err := p.Claim(t.Context(), k, h, lease)
	check(t, err)
	if got.State != want.State || got.Of != want.Of {
		t.Fatalf("got %s of %s, want %s of %s", got.State, got.Of, want.State, want.Of)
	}
	if got.State != dedup.Busy {
		want.After = 0
		if got.After != 0 {
			t.Errorf("got %s after %s, want no time: there is nothing to wait for", got.State, got.After)
		}
	}
	if got.After > want.After || got.After < want.After-time.Minute || got.After < 0 {
		t.Errorf("got busy for another %s, want about %s", got.After, want.After)
	}
}

func (p place) gets(t *testing.T, k dedup.Key, h dedup.Holder, lease time.Duration) {
	t.Helper()
	p.claims(t, k, h, lease, claimedBy(h))
}

func (p place) done(t *testing.T, k dedup.Key, h dedup.Holder, window time.Duration) {
	t.Helper()
	check(t, p.Done(t.Context(), k, h, window))
}

func (p place) release(t *testing.T, k dedup.Key, h dedup.Holder) {
	t.Helper()
	check(t, p.Release(t.Context(), k, h))
}

func claimedBy(h dedup.Holder) dedup.Answer {
	return dedup.Answer{State: dedup.Claimed, Of: h.Delivery}
}

func busyWith(h dedup.Holder) dedup.Answer {
	return dedup.Answer{State: dedup.Busy, Of: h.Delivery, After: long}
}

func duplicateOf(h dedup.Holder) dedup.Answer {
	return dedup.Answer{State: dedup.Duplicate, Of: h.Delivery}
}

func repeatOf(h dedup.Holder) dedup.Answer { return dedup.Answer{State: dedup.Repeat, Of: h.Delivery} }

func TestOneCall(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		first, second := someone(), someone()
		p.gets(t, order42, first, long)
		p.claims(t, order42, second, long, busyWith(first))
		p.claims(t, order42, second, long, busyWith(first)) // a question changes nothing
		p.done(t, order42, first, long)
		p.claims(t, order42, second, long, duplicateOf(first))
		p.claims(t, order42, again(first), long, repeatOf(first))
		p.claims(t, order42, first, long, repeatOf(first))
	})
}

func TestWindowEnds(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		first, second := someone(), someone()
		p.gets(t, order42, first, long)
		p.done(t, order42, first, brief) // the window counts, not what is left of the lease
		eventually(t, "the window is over", func() bool {
			got, err := p.Claim(t.Context(), order42, second, long)
			check(t, err)
			return got.State == dedup.Claimed
		})
		p.claims(t, order42, first, long, busyWith(second))
	})
}

// After its own window a delivery may call again: a replay with the same id is not what this is for, but it must not hang.
func TestOwnWindowEnds(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		h := someone()
		p.gets(t, order42, h, long)
		p.done(t, order42, h, brief)
		eventually(t, "the window is over", func() bool {
			got, err := p.Claim(t.Context(), order42, again(h), long)
			check(t, err)
			return got.State == dedup.Claimed
		})
	})
}

func TestLeaseEnds(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		first, second := someone(), someone()
		begun := time.Now()
		p.gets(t, order42, first, brief)
		eventually(t, "the lease is over", func() bool {
			got, err := p.Claim(t.Context(), order42, second, long)
			check(t, err)
			return got.State == dedup.Claimed
		})
		if took := time.Since(begun); took < brief {
			t.Errorf("got a claim of %s after %s", brief, took)
		}
		p.release(t, order42, first) // too late: the claim is another's
		p.claims(t, order42, first, long, busyWith(second))
	})
}

func TestRelease(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		first, second := someone(), someone()
		p.release(t, order42, first) // nothing there
		p.gets(t, order42, first, long)
		p.release(t, order42, second) // not his
		p.claims(t, order42, second, long, busyWith(first))
		p.release(t, order42, first)
		p.gets(t, order42, second, long)
	})
}

func TestReleaseAfterDone(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		first := someone()
		p.gets(t, order42, first, long)
		p.done(t, order42, first, long)
		p.release(t, order42, first)
		p.claims(t, order42, someone(), long, duplicateOf(first))
	})
}

// A worker died with the claim: the next attempt of the delivery does not wait for its lease, and what is left of the old attempt
// does no harm to the new one.
func TestNextAttemptTakesOver(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		old, other := someone(), someone()
		next := again(old)
		p.gets(t, order42, old, long)
		p.gets(t, order42, next, long)
		p.release(t, order42, old)
		p.claims(t, order42, other, long, busyWith(next))
		p.release(t, order42, next)
		p.gets(t, order42, other, long)
	})
}

// The call of the old attempt comes through after the new one has the claim: it has been made, and must not be made again.
func TestOldAttemptIsDone(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		old := someone()
		next := again(old)
		p.gets(t, order42, old, long)
		p.gets(t, order42, next, long)
		p.done(t, order42, old, long)
		p.claims(t, order42, next, long, repeatOf(old))
		p.release(t, order42, next)
		p.claims(t, order42, someone(), long, duplicateOf(old))
	})
}

func TestClaimAgainRenews(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		first := someone()
		p.gets(t, order42, first, brief)
		p.gets(t, order42, first, long)
		p.claims(t, order42, someone(), long, busyWith(first)) // for an hour
		p.release(t, order42, first)
		p.gets(t, order42, someone(), long)
	})
}

func TestDoneAfterLoss(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		first := someone()
		p.gets(t, order42, first, long)
		p.empty()
		p.done(t, order42, first, long)
		p.claims(t, order42, someone(), long, duplicateOf(first))
		p.claims(t, order42, again(first), long, repeatOf(first))
	})
}

func TestDoneAfterLeaseEnded(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		first, second, third := someone(), someone(), someone()
		p.gets(t, order42, first, time.Millisecond)
		eventually(t, "the lease is over", func() bool { // found out by another, who gives back what he gets
			got, err := p.Claim(t.Context(), order42, second, time.Millisecond)
			check(t, err)
			return got.State == dedup.Claimed
		})
		eventually(t, "the first one's success counts", func() bool {
			p.done(t, order42, first, long)
			got, err := p.Claim(t.Context(), order42, again(first), long)
			check(t, err)
			return got.State == dedup.Repeat
		})
		p.claims(t, order42, third, long, duplicateOf(first))
	})
}

func TestDoneLeavesAnother(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		first, second, third := someone(), someone(), someone()
		p.gets(t, order42, first, long)
		p.empty()
		p.gets(t, order42, second, long)
		p.done(t, order42, first, long)
		p.claims(t, order42, third, long, busyWith(second))
		p.done(t, order42, second, long)
		p.done(t, order42, first, brief)
		p.claims(t, order42, third, long, duplicateOf(second))
		p.claims(t, order42, first, long, duplicateOf(second))
	})
}

func TestManyClaimOneKey(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		for range 40 {
			k := dedup.Key{Observer: "o", Action: "a", Key: someone().Attempt.String()}
			raced(t, p, k)
		}
	})
}

// A key whose time is over, or was given back, is fought for as one that is new.
func TestManyClaimOldKey(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		for range 20 {
			before := someone()
			eventually(t, "the key is free", func() bool {
				got, err := p.Claim(t.Context(), order42, before, time.Millisecond)
				check(t, err)
				return got.State == dedup.Claimed
			})
			time.Sleep(2 * time.Millisecond) // it is to have expired when all begin
			winner := raced(t, p, order42)
			p.release(t, order42, winner)
			winner = raced(t, p, order42)
			p.release(t, order42, winner)
		}
	})
}

// raced lets 50 deliveries claim a key at once. One gets it, and the others are told which.
func raced(t *testing.T, p place, k dedup.Key) (winner dedup.Holder) {
	t.Helper()
	const racers = 50
	holders, answers, errs := make([]dedup.Holder, racers), make([]dedup.Answer, racers), make([]error, racers)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range racers {
		holders[i] = someone()
		wg.Go(func() {
			<-start
			answers[i], errs[i] = p.Claim(t.Context(), k, holders[i], long)
		})
	}
	close(start)
	wg.Wait()
	claimed := 0
	for i, a := range answers {
		check(t, errs[i])
		if a.State == dedup.Claimed {
			claimed, winner = claimed+1, holders[i]
		}
	}
	if claimed != 1 {
		t.Fatalf("%d of %d got the claim for %q, want one", claimed, racers, k.Key)
	}
	for i, a := range answers {
		if holders[i] != winner && (a.State != dedup.Busy || a.Of != winner.Delivery) {
			t.Errorf("got %s of %s, want busy with the winner", a.State, a.Of)
		}
	}
	return winner
}

// Claims come and go while many ask: never do two hold the key at a time.
func TestOneAtATime(t *testing.T) {
	inEachPlace(t, func(t *testing.T, p place) {
		var mu sync.Mutex
		inside := 0
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 30 {
					h := someone()
					got, err := p.Claim(t.Context(), order42, h, long)
					if err != nil {
						t.Error(err)
						return
					}
					if got.State != dedup.Claimed {
						continue
					}
					mu.Lock()
					inside++
					if inside != 1 {
						t.Errorf("%d hold the key", inside)
					}
					mu.Unlock()
					mu.Lock()
					inside--
					mu.Unlock()
					if err := p.Release(t.Context(), order42, h); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	})
}

// Any text is a key, and no two keys are one.
func TestKeys(t *testing.T) {
	tenKB := strings.Repeat("0123456789", 1024)
	texts := []string{
		"", " ", "a", "A", "a b", "a:b", "b:c", "c", ":", "a:", ":a", "a\x00b", "a\nb", "*", "[a]", "{a}b", "{a}c", "%3A", "Straße", "STRASSE",
		"\u00e9", "e\u0301", "東京", "\xff\xfe", tenKB, tenKB + "1", tenKB[:512], tenKB[:513], "sha256:" + strings.Repeat("0", 64),
		sha(tenKB), sha(tenKB[:513]), // what long keys are kept by in Redis
	}
	var keys []dedup.Key
	for _, observer := range []string{"a", "a.b", "dedup"} {
		for _, action := range []string{"b", "a", "b-c"} {
			for _, text := range texts {
				keys = append(keys, dedup.Key{Observer: observer, Action: action, Key: text})
			}
		}
	}
	inEachPlace(t, func(t *testing.T, p place) {
		holders := make([]dedup.Holder, len(keys))
		for i, k := range keys {
			holders[i] = someone()
			p.gets(t, k, holders[i], long)
		}
		for i, k := range keys {
			p.claims(t, k, someone(), long, busyWith(holders[i]))
			p.done(t, k, holders[i], long)
			p.claims(t, k, someone(), long, duplicateOf(holders[i]))
		}
	})
}
