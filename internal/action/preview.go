package action

import (
	"errors"
	"net/url"
	"regexp"
	"strings"

	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// Preview is what a call would send, for people who ask before anything is sent. It holds no secret.
type Preview []Part

// Part is a piece of a Preview: "url", "body", "subject", "header Content-Type", …
type Part struct {
	Name  string `json:"name"`  // what it is: method, url, header X, body, message …
	Value string `json:"value"` // as it would be sent
}

// whenSent stands in for what is made at the moment of sending.
const whenSent = "[made when it is sent]"

// previewURL is where a call would go. Of a URL in the environment, scheme and host are shown.
func previewURL(target *rule.Template, env setting.Secret, call Call) (string, error) {
	if !isURL(target) {
		return unknown(env), nil
	}
	rendered, err := target.URL(call.Env)
	if err != nil {
		return "", err
	}
	u, err := url.Parse(rendered)
	switch {
	case err != nil:
		return "", errors.New("it does not render to a URL")
	case !env.IsZero():
		return hiddenPath(u), nil
	default:
		return withoutCredentials(rendered), nil
	}
}

// isURL says that a target is known. The configuration of one that is none would have been refused, if the environment had
// been complete.
func isURL(target *rule.Template) bool { return target != nil && target.CheckURL() == nil }

// hiddenPath is a URL whose path is a secret.
func hiddenPath(u *url.URL) string { return outbound.RedactURL(u) + "/" + redacted }

// withoutCredentials hides the values of parameters whose names speak of credentials: the file may take them from the
// environment.
func withoutCredentials(rendered string) string {
	rest, query, found := strings.Cut(rendered, "?")
	if !found {
		return rendered
	}
	parameters := strings.Split(query, "&")
	for i, parameter := range parameters {
		if name, _, ok := strings.Cut(parameter, "="); ok && isCredential(name) {
			parameters[i] = name + "=" + redacted
		}
	}
	return rest + "?" + strings.Join(parameters, "&")
}

// unknown stands in for what depends on a variable that the environment lacks.
func unknown(env setting.Secret) string {
	if env.Env() == "" {
		return "[not known: the environment lacks a value]"
	}
	return "[not known: " + env.String() + " is not set]"
}

// hidden stands in for a secret, and says when there is none.
func hidden(secret setting.Secret) string {
	if secret.Value() == "" {
		return unknown(secret)
	}
	return redacted
}

// incomplete is an action whose keys could not be read, since the environment lacks a value: all that can be said of it is
// its name.
type incomplete struct {
	spec
	unread []string // the values, as in the file
}

// variable is the reference to one in a value that could not be read.
var variable = regexp.MustCompile(`\$\{[a-zA-Z_][a-zA-Z0-9_]*\}`)

// Dedup is not known: it may be what could not be read.
func (incomplete) Dedup() *Dedup { return nil }

// ResultCache is not known either.
func (incomplete) ResultCache() *ResultCache { return nil }

// Preview says what it takes to know more.
func (i incomplete) Preview(Call) (Preview, error) {
	missing := variable.FindAllString(strings.Join(i.unread, " "), -1)
	return Preview{{"not known", "the environment lacks " + strings.Join(missing, ", ")}}, nil
}
