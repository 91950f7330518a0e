package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/event"
)

func TestDeadLetterList(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.get("/dead-letters").is(http.StatusOK).shows("0 dead letters", "None: every delivery was made")
	a := s.job(job{ended: 48 * time.Hour})
	b := s.job(job{observer: "mailer", action: "mail", lastError: `Mailbox "full"`})
	c := s.job(job{state: "cancelled", mark: "final_status", lastError: "JobCancelError: 410 Gone"})
	s.job(job{state: "retryable"})
	link := func(id int64) string { return fmt.Sprintf("/dead-letters/%d\"", id) }
	s.get("/dead-letters").is(http.StatusOK).shows("3 dead letters", "order-shipped/notify-erp", "final status", "410 Gone", "3 of 3",
		`Mailbox "full"`).hides("JobCancelError")
	for query, shows := range map[string][]int64{
		"": {a, b, c}, "?observer=mailer": {b}, "?action=notify-erp": {a, c}, "?since=24h": {b, c}, "?error=MAILBOX": {b}, "?error=%25": {},
		"?observer=order-shipped&error=gone": {c}, fmt.Sprint("?after=", b): {a},
	} {
		page := s.get("/dead-letters" + query).is(http.StatusOK)
		for _, id := range []int64{a, b, c} {
			want := false
			for _, shown := range shows {
				want = want || shown == id
			}
			if strings.Contains(page.body, link(id)) != want {
				t.Errorf("%s: %d shown %v, want %v", query, id, !want, want)
			}
		}
	}
}

func TestDeadLetterPages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for range lettersPage + 1 {
		s.job(job{})
	}
	first := s.get("/dead-letters?observer=order-shipped").is(http.StatusOK)
	_, rest, found := strings.Cut(first.body, `href="/dead-letters?after=`)
	after, _, _ := strings.Cut(rest, "&")
	if !found || strings.Count(first.body, `name="id"`) != lettersPage {
		t.Fatalf("%d on the first page, next %v", strings.Count(first.body, `name="id"`), found)
	}
	second := s.get("/dead-letters?observer=order-shipped&after=" + after).is(http.StatusOK).shows("Newest")
	if n := strings.Count(second.body, `name="id"`); n != 1 {
		t.Errorf("%d on the second page", n)
	}
}

func TestDeadLetter(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	e := newEvent(1)
	s.record(e)
	id := s.job(job{event: e})
	s.get(fmt.Sprint("/dead-letters/", id)).is(http.StatusOK).shows("order-shipped/notify-erp", "attempts exhausted", "503 Service Unavailable",
		"9007199254740993001", event.DeliveryID(e.ID, e.PK, "order-shipped", "notify-erp").String(), "dead (503) in 12 ms", "Retry", "Remove…").
		hides(`action="/dead-letters/0`)
	change := s.job(job{kind: "weir_change", observer: "-", action: "-", state: "cancelled", mark: "bad_row"})
	s.get(fmt.Sprint("/dead-letters/", change)).is(http.StatusOK).shows("bad row")
}

func TestRetryAndRemove(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	a, b, c := s.job(job{}), s.job(job{observer: "mailer"}), s.job(job{observer: "mailer", lastError: "other"})
	state := func(id int64) string {
		var text string
		_ = s.db.QueryRow(t.Context(), `SELECT state || ' ' || attempt FROM weir.river_job WHERE id = $1`, id).Scan(&text)
		return text
	}
	s.follows(s.post(fmt.Sprintf("/dead-letters/%d/retry", a), nil)).shows("1 dead letter retried")
	if got := state(a); got != "available 0" {
		t.Errorf("retried: %s", got)
	}
	s.get("/dead-letters/confirm?observer=mailer&id="+strconv.FormatInt(b, 10)).is(http.StatusOK).
		shows("Remove 1 dead letter for good?", "mailer/notify-erp", "503 Service Unavailable")
	if got := state(b); got != "discarded 3" {
		t.Errorf("after the question: %s", got)
	}
	s.follows(s.post("/dead-letters/remove", url.Values{"id": {fmt.Sprint(b), fmt.Sprint(a)}})).
		shows("1 dead letter removed. 1 more had been dealt with already.")
	if state(b) != "" || state(a) == "" || state(c) == "" {
		t.Errorf("after a removal: %q %q %q", state(a), state(b), state(c))
	}
	if n := s.count(`SELECT count(*) FROM weir.outcome WHERE observer = 'mailer'`); n != 1 {
		t.Errorf("%d outcomes of what was removed", n)
	}
	s.follows(s.post("/dead-letters/retry", nil)).shows("Nothing was chosen")
	s.post(fmt.Sprintf("/dead-letters/%d/remove", c), url.Values{"id": {fmt.Sprint(a)}}).is(http.StatusSeeOther)
	if state(c) != "" || state(a) == "" {
		t.Error("a single one: what the path names, and nothing else")
	}
}

// TestAllThatMatch: a filter chooses, and the question says how many there are.
func TestAllThatMatch(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for range 3 {
		s.job(job{observer: "mailer"})
	}
	other := s.job(job{})
	dead := func() int { return s.count(`SELECT count(*) FROM weir.dead_letter`) }
	s.get("/dead-letters/confirm?all=1&act=retry&observer=mailer").is(http.StatusOK).shows("Retry 3 dead letters?", "Observer mailer")
	s.follows(s.post("/dead-letters/retry", url.Values{"all": {"1"}, "observer": {"mailer"}})).shows("3 dead letters retried")
	if dead() != 1 {
		t.Errorf("%d are left", dead())
	}
	s.get("/dead-letters/confirm?all=1").is(http.StatusOK).shows("Remove 1 dead letter for good?", "These are all there are")
	s.follows(s.post("/dead-letters/remove", url.Values{"all": {"1"}, "error": {"nothing like it"}})).shows("0 dead letters removed")
	if s.count(`SELECT count(*) FROM weir.dead_letter WHERE id = $1`, other) != 1 {
		t.Error("a filter that chooses nothing has removed something")
	}
	s.follows(s.post("/dead-letters/remove", url.Values{"all": {"1"}})).shows("1 dead letter removed")
}
