package console

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

var update = flag.Bool("update", false, "write pictures and docs anew")

// tab is an empty page in a window of 1280 x 800, of a Chromium of its own.
type tab struct {
	context.Context // for chromedp.Do and chromedp.Run

	mu         sync.Mutex // guards complaints
	complaints []string
}

// browser starts a Chromium, which ends with the test. The test fails if a page broke its Content-Security-Policy or threw an
// exception that nobody caught.
func browser(t *testing.T) *tab {
	t.Helper()
	b := startBrowser(t)
	t.Cleanup(func() {
		for _, c := range b.complained() {
			t.Errorf("browser: %s", c)
		}
	})
	return b
}

// complained is what pages have done that they should not.
func (b *tab) complained() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, b.complaints...)
}

func startBrowser(t *testing.T) *tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: install Debian's chromium, as scripts/setup does", err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(1280, 800), chromedp.Flag("lang", "en-US"))
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox) // Chromium refuses to sandbox root
	}
	b := &tab{}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	allocator, stop := chromedp.NewExecAllocator(ctx, opts...)
	b.Context, _ = chromedp.NewContext(allocator, chromedp.WithListener(b.listen))
	t.Cleanup(func() {
		_ = chromedp.Cancel(b) // waits until it has gone
		stop()
		cancel()
	})
	if _, err := chromedp.Call(b, log.Enable, cdp.Empty{}); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return b
}

func (b *tab) listen(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Source == log.EntrySourceSecurity || strings.Contains(e.Entry.Text, "Content Security Policy") {
			b.complaints = append(b.complaints, fmt.Sprintf("%s: %s", e.Entry.URL, e.Entry.Text))
		}
	case *runtime.EventExceptionThrown:
		b.complaints = append(b.complaints, fmt.Sprintf("exception: %+v", e.ExceptionDetails))
	}
}

// enter opens a page of a console that asks for a password, and stays known to it.
func (b *tab) enter(t *testing.T, r *rig, path string) {
	t.Helper()
	headers := network.Headers{"Authorization": basic("ops", password)[1]}
	_, err := chromedp.Call(b, network.Enable, network.EnableParams{})
	check(t, err)
	_, err = chromedp.Call(b, network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{Headers: headers})
	check(t, err)
	check(t, chromedp.Do(b, chromedp.Navigate(r.url+path)))
}

// picture writes what the tab shows to docs/pictures/NAME.png, with -update.
func (b *tab) picture(t *testing.T, name string) {
	t.Helper()
	if !*update {
		return
	}
	// What fades in has to be there.
	const still = `Promise.all(document.getAnimations().filter(a => a.effect.getComputedTiming().iterations !== Infinity).map(a => a.finished)).then(() => 1)`
	_, err := chromedp.Run(b, chromedp.Evaluate[int](still, chromedp.EvalAwaitPromise))
	check(t, err)
	png, err := chromedp.Run(b, chromedp.CaptureScreenshot())
	check(t, err)
	const most = 200 << 10
	if len(png) > most {
		t.Errorf("%s.png has %d bytes: expected at most %d", name, len(png), most)
	}
	dir := filepath.Join("..", "..", "docs", "pictures")
	check(t, os.MkdirAll(dir, 0o755))
	check(t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
}

// A page that breaks its policy, or fails, is found by the tests that look for it.
func TestBrowserComplains(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
	const page = `data:text/html,<meta http-equiv="Content-Security-Policy" content="script-src 'nonce-x'"><title>hello</title>` +
		`<script>document.title='no'</script><script nonce="x">throw new Error("a mistake")</script>`
	check(t, chromedp.Do(b, chromedp.Navigate(page)))
	title, err := chromedp.Run(b, chromedp.Title())
	check(t, err)
	if title != "hello" {
		t.Errorf("title %q", title)
	}
	all := strings.Join(b.complained(), "\n")
	if !strings.Contains(all, "Content Security Policy") || !strings.Contains(all, "a mistake") {
		t.Errorf("got %s", all)
	}
}
