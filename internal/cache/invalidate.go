package cache

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"
)

// batch is how many keys a pipeline touches: few enough to be done well within a command's timeout.
const batch = 200

// Selection says which results to invalidate: those that any of it selects.
type Selection struct {
	Keys []string `json:"keys,omitempty"`
	// Patterns are matched with keys as Redis does: * ? [a-z] [^a] and \ before what stands for itself (see EscapeGlob).
	Patterns []string `json:"patterns,omitempty"`
	Tags     []string `json:"tags,omitempty"`
	All      bool     `json:"all,omitempty"`
	// Observer and Action, where they are not empty, narrow Keys, Patterns and All. Tags they do not.
	Observer string `json:"observer,omitempty"`
	Action   string `json:"action,omitempty"`
}

func (s *Selection) brief() *Selection {
	b := *s
	b.Keys, b.Tags = allBrief(s.Keys), allBrief(s.Tags)
	return &b
}

func (s *Selection) actionSelected(k Key) bool {
	return (s.Observer == "" || s.Observer == k.Observer) && (s.Action == "" || s.Action == k.Action)
}

// selects is for a brief selection.
func (s *Selection) selects(of *subject) bool {
	if slices.ContainsFunc(of.tags, func(tag string) bool { return slices.Contains(s.Tags, tag) }) {
		return true
	}
	return s.actionSelected(of.Key) && (s.All || slices.Contains(s.Keys, of.Key.Key) || s.patternSelects(of.Key))
}

func (s *Selection) patternSelects(k Key) bool {
	return slices.ContainsFunc(s.Patterns, func(pattern string) bool { return glob(pattern, k.Key) })
}

// Invalidate removes results, of calls that are being made, too: those are not stored. When it returns without an error, no
// result of a call that began before it was called is in Redis or in this process, and the other workers have been told; one
// that cannot be told stops to serve from memory within a second. An *AwayError: nothing is promised, ask again.
func (c *Results) Invalidate(ctx context.Context, s Selection) (removed int, err error) {
	removed, err = c.remote.Invalidate(ctx, s)
	c.drop(s.brief())
	c.figures.invalidated.Add(int64(removed))
	c.metrics.invalidated.Add(float64(removed))
	return removed, err
}

// Remote is what people's tools do with the results of an installation's workers.
type Remote struct {
	redis *Redis
	from  string // who need not be told
}

// NewRemote needs a connection that has been given its Name.
func NewRemote(r *Redis) *Remote { return &Remote{redis: r} }

// Invalidate see Results.Invalidate.
func (r *Remote) Invalidate(ctx context.Context, s Selection) (removed int, err error) {
	selection := s.brief()
	walk := func(match string, selects func(Key) bool, index func() string) {
		if err != nil {
			return
		}
		var n int
		n, err = r.walk(ctx, index, match, selects)
		removed += n
	}
	for _, key := range selection.Keys {
		walk("", selection.actionSelected, func() string { return r.redis.indexOfKey(key) })
	}
	for _, tag := range selection.Tags {
		walk("", func(Key) bool { return true }, func() string { return r.redis.indexOfTag(tag) })
	}
	switch {
	case selection.All:
		walk("", selection.actionSelected, r.redis.indexOfAll)
	default:
		for _, pattern := range selection.Patterns {
			one := Selection{Patterns: []string{pattern}, Observer: s.Observer, Action: s.Action}
			selects := func(k Key) bool { return one.actionSelected(k) && one.patternSelects(k) }
			walk(part(s.Observer)+":"+part(s.Action)+":"+pattern, selects, r.redis.indexOfAll)
		}
	}
	if err != nil {
		return removed, err
	}
	return removed, r.publish(ctx, selection)
}

// part is that of a pattern for members of indexes. Its star may match more than it should: who reads the members looks again.
func part(name string) string {
	if name == "" {
		return "*"
	}
	return EscapeGlob(name)
}

// named is a member of an index, with its score.
type named struct{ member, score string }

// walk removes the results that an index names and that are selected. A scan returns every member that is there all the while.
func (r *Remote) walk(ctx context.Context, index func() string, match string, selects func(Key) bool) (removed int, err error) {
	var cursor uint64
	for {
		var found []named
		err = r.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
			var pairs []string
			pairs, cursor, err = client.ZScan(ctx, index(), cursor, match, batch).Result()
			for i := 0; i+1 < len(pairs); i += 2 {
				if k, ok := ofMember(pairs[i]); ok && selects(k) {
					found = append(found, named{pairs[i], pairs[i+1]})
				}
			}
			return err
		})
		for len(found) > 0 && err == nil {
			n := min(batch, len(found))
			var gone int
			gone, err = r.remove(ctx, index(), found[:n])
			removed += gone
			found = found[n:]
		}
		if err != nil || cursor == 0 {
			return removed, err
		}
	}
}

// remove removes the tickets of renewals, then results, then their names: from the index in which they were found and from the
// two that each result is in.
func (r *Remote) remove(ctx context.Context, index string, found []named) (removed int, err error) {
	names := make(map[string][]named, 3) // by index
	names[index] = found
	err = r.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		return r.otherNames(ctx, client, found, names)
	})
	if err != nil {
		return 0, err
	}
	err = r.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error { // first of all: see Renewal
		pipe := client.Pipeline()
		for _, n := range found {
			pipe.Unlink(ctx, r.redis.renewal(n.member))
		}
		_, err := pipe.Exec(ctx)
		return err
	})
	if err != nil {
		return 0, err
	}
	err = r.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		pipe := client.Pipeline()
		for _, n := range found {
			removeScript.Eval(ctx, pipe, []string{r.redis.place(n.member)})
		}
		commands, err := pipe.Exec(ctx)
		for _, command := range commands {
			if n, err := command.(*redis.Cmd).Int(); err == nil {
				removed += n
			}
		}
		return err
	})
	if err != nil {
		return removed, err
	}
	return removed, r.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		pipe := client.Pipeline()
		for key, members := range names {
			for _, n := range members {
				forgetScript.Eval(ctx, pipe, []string{key}, n.member, n.score)
			}
		}
		_, err := pipe.Exec(ctx)
		return err
	})
}

// otherNames reads the scores in the other indexes that every result is in. Those of tags are not known here: a name that stays
// there is that of nothing, or costs one call that was not needed, until it expires.
func (r *Remote) otherNames(
	ctx context.Context, client redis.UniversalClient, found []named, names map[string][]named,
) error {
	pipe := client.Pipeline()
	type asked struct {
		key, member string
		score       *redis.Cmd
	}
	var questions []asked
	for _, n := range found {
		k, _ := ofMember(n.member)
		for _, key := range []string{r.redis.indexOfAll(), r.redis.indexOfKey(k.Key)} {
			if _, walked := names[key]; !walked {
				questions = append(questions, asked{key, n.member, pipe.Do(ctx, "zscore", key, n.member)})
			}
		}
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	for _, q := range questions {
		if score, err := q.score.Text(); err == nil {
			names[q.key] = append(names[q.key], named{q.member, score})
		}
	}
	return nil
}

// publish tells the workers to drop what they hold of it: everything, if it holds bytes that JSON does not keep.
func (r *Remote) publish(ctx context.Context, s *Selection) error {
	if !utf8.ValidString(strings.Join(s.Patterns, "")) {
		s = &Selection{All: true}
	}
	payload, err := json.Marshal(notice{From: r.from, Selection: s})
	if err != nil {
		return err
	}
	return r.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		return client.Publish(ctx, r.redis.channel(), payload).Err()
	})
}

// notice is what workers are told.
type notice struct {
	From string `json:"from,omitempty"`
	*Selection
}

// channel is where they are told it.
func (r *Redis) channel() string { return r.Key("invalidated") }

// reserved says that a key is Weir's own, of whatever installation.
func reserved(key string) bool { return strings.HasPrefix(key, layout+":") }
