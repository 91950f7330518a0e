package rule

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Limits of a URL in bytes, as written and as rendered.
const (
	maxURL         = 2048
	maxRenderedURL = 8192
)

// urlPlace is where in a URL a placeholder is.
type urlPlace int

const (
	urlAuthority urlPlace = iota // scheme, host and port
	urlPath
	urlQuery
	urlFragment
)

// urlScanner follows literal text to find out where in a URL the next placeholder is. Values are escaped, so they
// change nothing.
type urlScanner struct {
	place   urlPlace
	slashes int // of the two behind the scheme
}

func (s *urlScanner) scan(literal string) {
	for i := range len(literal) {
		switch c := literal[i]; {
		case s.place == urlFragment:
			return
		case c == '#':
			s.place = urlFragment
		case c == '?':
			s.place = urlQuery
		case c == '/' && s.place == urlAuthority && s.slashes < 2:
			s.slashes++
		case c == '/' && s.place == urlAuthority:
			s.place = urlPath
		}
	}
}

// CheckURL finds, without an event, what makes the template no URL: it must be http or https, with a host and without
// user and password, and a placeholder may stand only behind the host.
func (t Template) CheckURL() error {
	var sample strings.Builder
	for _, s := range t.segments {
		sample.WriteString(s.literal)
		if s.value == nil {
			continue
		}
		if s.url == urlAuthority {
			return fmt.Errorf("{{ %s }} stands in the scheme or host of the URL, or right behind the host: "+
				"write them out, and values behind the next /", s.value.source)
		}
		sample.WriteByte('x')
	}
	if len(t.source) > maxURL {
		return fmt.Errorf("the URL is longer than %d bytes", maxURL)
	}
	return checkURL(sample.String())
}

// checkURL says why a URL may not be sent to. It repeats nothing of the URL, which may hold a secret.
func checkURL(raw string) error {
	const want = "expected http://host/path or https://host/path"
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return errors.New("the URL contains a space, a control character or a backslash: write %20, %5C and so on")
	}
	u, err := url.Parse(raw)
	if err != nil {
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		reason, _, _ := strings.Cut(err.Error(), `"`) // what follows is quoted from the URL
		return fmt.Errorf("this is no URL (%s): %s", strings.TrimSpace(reason), want)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("the scheme of the URL is not http or https: " + want)
	case u.Hostname() == "" || u.Opaque != "":
		return errors.New("the URL has no host: " + want)
	case u.User != nil:
		return errors.New("the URL contains a user or password: put them into a header")
	}
	for part := range strings.SplitSeq(u.Path, "/") {
		if part == "." || part == ".." {
			return fmt.Errorf("the path of the URL contains %q, which would lead elsewhere", part)
		}
	}
	return nil
}

// URL renders a URL: in the path a value is one piece of a segment, behind ? a part of the query. Its scheme and host
// are those of the template. See CheckURL, which should have been asked before.
func (t Template) URL(env *Env) (string, error) {
	if err := t.CheckURL(); err != nil {
		return "", err
	}
	if text, static := t.Static(); static {
		return text, nil
	}
	out, err := t.render(env, func(dst []byte, s *segment, v any) ([]byte, error) {
		plain, err := text(v)
		if s.url == urlQuery {
			return append(dst, url.QueryEscape(plain)...), err
		}
		return append(dst, url.PathEscape(plain)...), err
	})
	if err != nil {
		return "", err
	}
	if len(out) > maxRenderedURL {
		return "", fmt.Errorf("the rendered URL is longer than %d bytes", maxRenderedURL)
	}
	if err := checkURL(string(out)); err != nil {
		return "", err
	}
	return string(out), nil
}
