package cache

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// trustFor is how long the in-process results are good after the last question that the subscription has answered. It is a
	// lease: a process that was stopped for a while does not serve what was invalidated meanwhile.
	trustFor = time.Second
	// entryBytes is what an entry takes beside its texts, and tagBytes a tag of it.
	entryBytes = 512
	tagBytes   = 128
)

// memory holds results in process, those that were used last, within a number of bytes. It is a copy of what Redis holds, and
// serves only while invalidations are heard. Safe for concurrent use.
type memory struct {
	max int

	mu      sync.Mutex // guards the rest
	lru     *simplelru.LRU[string, *entry]
	keys    map[string][]*entry // of one key, one for each action
	tags    map[string]map[*entry]struct{}
	bytes   int
	heard   int       // how many invalidations were processed
	trusted time.Time // until when
}

// entry is a result in memory.
type entry struct {
	*subject

	value   []byte
	stored  time.Time
	expires time.Time
}

func newMemory(bytes int) *memory {
	m := &memory{max: bytes, keys: map[string][]*entry{}, tags: map[string]map[*entry]struct{}{}}
	m.lru, _ = simplelru.NewLRU(math.MaxInt, func(_ string, e *entry) { m.removed(e) }) // fails for a size of 0
	return m
}

// size is what an entry takes. Its member holds the texts of its key.
func (e *entry) size() int {
	n := entryBytes + len(e.value) + 2*len(e.member)
	for _, tag := range e.tags {
		n += tagBytes + len(tag)
	}
	return n
}

// removed keeps the books when an entry has gone. The caller holds mu.
func (m *memory) removed(e *entry) {
	m.bytes -= e.size()
	same := slices.DeleteFunc(m.keys[e.Key.Key], func(other *entry) bool { return other == e })
	m.keys[e.Key.Key] = same
	if len(same) == 0 {
		delete(m.keys, e.Key.Key)
	}
	for _, tag := range e.tags {
		delete(m.tags[tag], e)
		if len(m.tags[tag]) == 0 {
			delete(m.tags, tag)
		}
	}
}

// get finds a result. Its value must not be changed.
func (m *memory) get(member string) (value []byte, age time.Duration, ok bool) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.After(m.trusted) {
		return nil, 0, false
	}
	e, ok := m.lru.Get(member)
	if !ok {
		return nil, 0, false
	}
	if !now.Before(e.expires) {
		m.lru.Remove(member)
		return nil, 0, false
	}
	return e.value, now.Sub(e.stored), true
}

// now is how many invalidations were processed, to be asked before Redis is.
func (m *memory) now() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard
}

// put keeps what Redis held when so many invalidations were processed. One more since then may have been for it.
func (m *memory) put(e *entry, heard int) {
	size := e.size()
	m.mu.Lock()
	defer m.mu.Unlock()
	if heard != m.heard || size > m.max || time.Now().After(m.trusted) {
		return
	}
	m.lru.Remove(e.member)
	m.lru.Add(e.member, e)
	m.bytes += size
	m.keys[e.Key.Key] = append(m.keys[e.Key.Key], e)
	for _, tag := range e.tags {
		if m.tags[tag] == nil {
			m.tags[tag] = map[*entry]struct{}{}
		}
		m.tags[tag][e] = struct{}{}
	}
	for m.bytes > m.max {
		m.lru.RemoveOldest()
	}
}

// drop removes what is selected.
func (m *memory) drop(s *Selection) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard++
	var selected []*entry
	if s.All || len(s.Patterns) > 0 {
		for _, e := range m.lru.Values() {
			if s.selects(e.subject) {
				selected = append(selected, e)
			}
		}
	}
	for _, key := range s.Keys {
		for _, e := range m.keys[key] {
			if s.actionSelected(e.Key) {
				selected = append(selected, e)
			}
		}
	}
	for _, tag := range s.Tags {
		for e := range m.tags[tag] {
			selected = append(selected, e)
		}
	}
	for _, e := range selected {
		m.lru.Remove(e.member) // nothing the second time
	}
}

// trust serves for a while from a moment at which the subscription lived.
func (m *memory) trust(from time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trusted = from.Add(trustFor)
}

// clear forgets everything, and serves nothing until it is trusted.
func (m *memory) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard++
	m.trusted = time.Time{}
	m.lru.Purge()
}

// used is how many entries there are, and what they take.
func (m *memory) used() (entries, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lru.Len(), m.bytes
}
