package console

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// River UI works whole in a browser, below a prefix: lists, a job's page, a click that changes something.
func TestRiverUIInBrowser(t *testing.T) {
	t.Parallel()
	r := newRig(t, "prefix: /ops/weir, basic_auth: {user: ops, password_env: CONSOLE_PASSWORD}")
	ids := r.insertAll()
	for n := range 6 {
		r.insert("discarded", 20+n)
	}
	b := browser(t)
	b.enter(t, r, "/river/")
	check(t, chromedp.Do(b, chromedp.WaitVisible(chromedp.Search(`//a[contains(@href, "/ops/weir/river/jobs/")]`))))
	for _, state := range []string{"running", "retryable", "completed"} {
		row := fmt.Sprintf(`//main//a[@href="/ops/weir/river/jobs/%d"]`, ids[state])
		check(t, chromedp.Do(b, chromedp.Navigate(r.url+"/river/jobs?state="+state), chromedp.WaitVisible(chromedp.Search(row))))
	}
	check(t, chromedp.Do(b, chromedp.Navigate(r.url+"/river/jobs?state=discarded"), chromedp.WaitVisible(chromedp.Search(`//main//li[7]`))))
	b.picture(t, "riverui-jobs")

	job := fmt.Sprint(ids["discarded"])
	check(t, chromedp.Do(b, chromedp.Click(chromedp.Search(`//main//a[@href="/ops/weir/river/jobs/`+job+`"]`)),
		chromedp.WaitVisible(chromedp.Search(retryButton))))
	text, err := chromedp.Run(b, chromedp.Text(chromedp.CSS("main")))
	check(t, err)
	for _, want := range []string{"weir_webhook", "order-shipped", "notify-erp", "order-8", "503 Service Unavailable"} {
		if !strings.Contains(text, want) {
			t.Errorf("the job's page does not show %q:\n%s", want, text)
		}
	}
	b.picture(t, "riverui-job")
	check(t, chromedp.Do(b, chromedp.Click(chromedp.Search(retryButton))))
	r.await("the job to be retried", func() bool {
		return r.one("SELECT state::text FROM weir.river_job WHERE id = $1", ids["discarded"]) == "available"
	})
}

const retryButton = `//main//button[contains(., "Retry")]`

// The same click in a read-only console changes nothing, and the page lives on.
func TestReadOnlyRiverUIInBrowser(t *testing.T) {
	t.Parallel()
	r := newRig(t, "read_only: true")
	id := r.insertAll()["discarded"]
	before := r.jobs()
	b := browser(t)
	check(t, chromedp.Do(b, chromedp.Navigate(r.url+"/river/jobs/"+fmt.Sprint(id)), chromedp.Click(chromedp.Search(retryButton))))
	r.await("the refusal", func() bool { return strings.Contains(r.log.String(), "path=/river/api/jobs/retry status=403") })
	if after := r.jobs(); after != before {
		t.Errorf("something has changed:\n%s\nbefore:\n%s", after, before)
	}
	check(t, chromedp.Do(b, chromedp.WaitVisible(chromedp.Search(`//*[text()[contains(., "this console is read-only")]]`))))
	b.picture(t, "riverui-read-only")
}
