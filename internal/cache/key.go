package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxKey is how many bytes of a rendered key or tag stand in keys of Redis. What is longer stands there as its hash.
const maxKey = 512

// Key names a result: of which action it is, and which of its results. Observer and Action are of [a-zA-Z0-9_.-], Key is any
// text. Where it is longer than 512 bytes, or no UTF-8, its hash takes its place, sha256:<hex>, and only such patterns match it.
type Key struct{ Observer, Action, Key string }

// Brief is a rendered key or tag as it stands in keys of Redis, where people can read it: itself, or its hash where it is longer
// than 512 bytes or no UTF-8. One that looks like a hash is hashed, too: it could be another's.
func Brief(s string) string {
	const mark = "sha256:"
	if len(s) <= maxKey && !strings.HasPrefix(s, mark) && utf8.ValidString(s) {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return mark + hex.EncodeToString(sum[:])
}

func allBrief(texts []string) []string {
	out := make([]string, 0, len(texts))
	for _, s := range texts {
		out = append(out, Brief(s))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// subject is what a result is about: what invalidations select it by.
type subject struct {
	Key // brief

	tags   []string // brief
	member string   // what stands for it in indexes
}

func newSubject(k Key, tags []string) *subject {
	k.Key = Brief(k.Key)
	return &subject{Key: k, tags: allBrief(tags), member: k.Observer + ":" + k.Action + ":" + k.Key}
}

// ofMember is the key that a member of an index stands for.
func ofMember(member string) (Key, bool) {
	parts := strings.SplitN(member, ":", 3)
	if len(parts) != 3 {
		return Key{}, false
	}
	return Key{parts[0], parts[1], parts[2]}, true
}

// place is where the result of a member is.
func (r *Redis) place(member string) string { return r.Key("result", member) }

func (r *Redis) indexOfAll() string           { return r.Key("index", "all") }
func (r *Redis) indexOfKey(key string) string { return r.Key("index", "key", key) }
func (r *Redis) indexOfTag(tag string) string { return r.Key("index", "tag", tag) }

// indexes are those that a result is in.
func (r *Redis) indexes(s *subject) []string {
	keys := []string{r.indexOfAll(), r.indexOfKey(s.Key.Key)}
	for _, tag := range s.tags {
		keys = append(keys, r.indexOfTag(tag))
	}
	return keys
}
