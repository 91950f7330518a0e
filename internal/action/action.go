// Package action holds what Weir does about an event, one file a type. The struct that is decoded from weir.yaml is the
// action. Actions keep no state between calls, but for an access token, and know neither River nor the database: they are
// told what to do by a Call, and say by an Outcome and a classified error what came of it.
package action

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/cache"
	"github.com/fraiseql/weir/internal/event"
	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/outbound"
	"github.com/fraiseql/weir/internal/rule"
	"github.com/fraiseql/weir/internal/setting"
)

// Action is something to do about an event. It is immutable and safe for concurrent use.
type Action interface {
	Settings
	// Do does it once. The Outcome holds also for a failure. The error is an *Error, see there; Do returns soon after
	// ctx ends. The caller applies Timeout.
	Do(ctx context.Context, call Call) (event.Outcome, error)
	// Preview renders what Do would send, and sends nothing. It needs no more of call than Do, and neither CompleteTx nor
	// Refresh. An error is one that Do would return; values that only the environment knows may be unknown.
	Preview(call Call) (Preview, error)
}

// Settings are what weir.yaml says of every action, whatever its type.
type Settings interface {
	// Name is unique in the observer.
	Name() string
	// Type is the type's name in weir.yaml: "webhook", "database", "log".
	Type() string
	// Endpoint names the place where the action goes, see Config.Endpoint.
	Endpoint() string
	// Priority is River's: 1 (first) to 4.
	Priority() int
	// Timeout is how long one call may take.
	Timeout() time.Duration
	// Dedup says which events lead to one call, nil: each to its own.
	Dedup() *Dedup
	// ResultCache says how results are kept, nil: not.
	ResultCache() *ResultCache
}

// Call is one attempt to deliver an event.
type Call struct {
	Event *event.Event
	// Payload is the event's JSON as it is stored, byte by byte.
	Payload []byte
	// Env is what templates see of Event.
	Env *rule.Env
	// Observer and Action name the delivery.
	Observer, Action string
	// DeliveryID is the delivery's identity: the same for every attempt.
	DeliveryID uuid.UUID
	// ReplayOf is the delivery that this one repeats, made by a replay; zero when it repeats none.
	ReplayOf uuid.UUID
	// Attempt counts from 1.
	Attempt int
	// CompleteTx runs work in a transaction of the database, and completes the delivery with the Outcome that it returns in
	// the same transaction. Its error means that neither has happened, or that nobody knows because the COMMIT's answer was
	// lost; a delivery that was completed is not attempted again. Work runs at most once, and not at all when the delivery
	// is no longer this attempt's.
	CompleteTx func(ctx context.Context, work func(context.Context, pgx.Tx) (event.Outcome, error)) error
	// Refresh calls another action for the same event and keeps its result, whether one is kept already or not. The action has
	// `cache:`. The error is to be returned as it is: it says nothing of the endpoint of the action that asks.
	Refresh func(ctx context.Context, observer, action string) (event.Outcome, error)
}

// Deps is what actions need at run time.
type Deps struct {
	HTTP   *outbound.Client
	Mailer *Mailer // nil: there is no section smtp, and no email action
	// Redis and Results are what the cache action needs of the application's Redis and of the result cache. nil: there was no
	// section redis when the worker started.
	Redis   *cache.Redis
	Results *cache.Results
	// Elasticsearch is for the search action. nil: there was no section elasticsearch when the worker started.
	Elasticsearch *index.Elasticsearch
	Logger        *slog.Logger
}

// Common are the keys that every type of action has. The fields have longer names than the keys, which are those of
// Action's methods.
type Common struct { //nolint:recvcheck // Format is the value's: a copy must not print its secrets either
	// ActionName is unique in the observer. Default: the type.
	ActionName string `yaml:"name,omitempty" jsonschema:"pattern=^[a-zA-Z0-9][a-zA-Z0-9_.-]*$,maxLength=64"`
	// ActionType chooses the struct.
	ActionType string `yaml:"type" jsonschema:"required"`
	// EndpointName names the place where the action goes. Default: see Config.Endpoint.
	EndpointName string `yaml:"endpoint,omitempty" jsonschema:"maxLength=255"`
	// JobPriority is River's: 1 (first, the default) to 4.
	JobPriority int `yaml:"priority,omitempty" jsonschema:"minimum=1,maximum=4"`
	// CallTimeout is how long one call may take. Default: 30s.
	CallTimeout setting.Duration `yaml:"timeout,omitempty"`
	// Deduplication says that events with the same key lead to one call. Default: each leads to its own.
	Deduplication *Dedup `yaml:"dedup,omitempty"`
	// Caching keeps successful results, so that the next event with the same key sends nothing. Default: none is kept.
	Caching *ResultCache `yaml:"cache,omitempty"`
}

const (
	maxName        = 64
	maxEndpoint    = 255
	maxPriority    = 4
	defaultTimeout = setting.Duration(30 * time.Second)
)

var (
	namePattern     = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	endpointPattern = regexp.MustCompile(`^[a-zA-Z0-9[][a-zA-Z0-9_.:\]-]*$`)
)

// Name is the action's name.
func (c *Common) Name() string { return cmp.Or(c.ActionName, c.ActionType) }

// Type is the type's name.
func (c *Common) Type() string { return c.ActionType }

// Priority is River's.
func (c *Common) Priority() int { return c.JobPriority }

// Timeout is how long one call may take.
func (c *Common) Timeout() time.Duration { return c.CallTimeout.Std() }

// Dedup says which events lead to one call.
func (c *Common) Dedup() *Dedup { return c.Deduplication }

// ResultCache says how results are kept.
func (c *Common) ResultCache() *ResultCache { return c.Caching }

// Format prints type and name, whatever the verb: the structs of the types hold secrets.
func (c Common) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.ActionType+" "+c.Name()) }

// check fills in defaults and returns what is wrong with the common keys.
func (c *Common) check(f fields) []error {
	var errs []error
	if name := c.Name(); len(name) > maxName || !namePattern.MatchString(name) {
		errs = append(errs, f.errorAt("name", "%q is no name of an action: expected letters, digits, _, . and -, "+
			"a letter or digit first, at most %d characters", name, maxName))
	}
	if c.EndpointName != "" && (len(c.EndpointName) > maxEndpoint || !endpointPattern.MatchString(c.EndpointName)) {
		errs = append(errs, f.errorAt("endpoint", "%q is no name of an endpoint: expected letters, digits, _, ., : and -, "+
			"as in erp or erp.example.org:8443", c.EndpointName))
	}
	if f.has("priority") && (c.JobPriority < 1 || c.JobPriority > maxPriority) {
		errs = append(errs, f.errorAt("priority", "priority is %d: expected 1 (first) to %d", c.JobPriority, maxPriority))
	}
	c.JobPriority = cmp.Or(c.JobPriority, 1)
	if f.has("timeout") && c.CallTimeout <= 0 {
		errs = append(errs, f.errorAt("timeout", "a timeout of 0 would fail every call: expected more, as in 30s"))
	}
	c.CallTimeout = cmp.Or(c.CallTimeout, defaultTimeout)
	if why := noResult[c.ActionType]; why != "" && f.has("cache") {
		errs = append(errs, f.errorAt("cache", "%s: remove cache", why))
	}
	return errs
}

func (c *Common) common() *Common { return c }
