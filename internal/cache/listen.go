package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// pingEvery is between two questions whether the server of the subscription is there.
	pingEvery = trustFor / 4
	// subscribeEvery is between two attempts to subscribe.
	subscribeEvery = 250 * time.Millisecond
)

var errSilent = errors.New("the subscription is silent")

// listen hears of invalidations until the context ends. What is in memory counts only meanwhile.
func (c *Results) listen(ctx context.Context) {
	select {
	case <-c.wanted:
	case <-ctx.Done():
	}
	complained := false
	for ctx.Err() == nil {
		if c.redis.serves() {
			lived, err := c.subscribe(ctx)
			c.memory.clear()
			if ctx.Err() == nil && (lived || !complained) {
				c.log.Warn("Not heard of invalidations: results come from Redis alone", "error", short(err))
			}
			complained = !lived
		}
		timer := time.NewTimer(subscribeEvery)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// subscribe is one subscription, until it fails. lived says that it has been confirmed.
func (c *Results) subscribe(ctx context.Context) (lived bool, err error) {
	var subscription *redis.PubSub
	err = c.redis.Do(ctx, func(ctx context.Context, client redis.UniversalClient) error {
		subscription = client.Subscribe(ctx)
		return subscription.Subscribe(ctx, c.redis.channel())
	})
	if subscription == nil {
		return false, err
	}
	hangUp := context.AfterFunc(ctx, func() { _ = subscription.Close() }) // ends a read at once
	defer func() {
		if hangUp() {
			_ = subscription.Close()
		}
	}()
	if err != nil {
		return false, err
	}
	began, heard, asked := time.Now(), time.Now(), time.Time{}
	for {
		if lived && time.Since(asked) >= pingEvery {
			asked = time.Now()
			if err := subscription.Ping(ctx, strconv.FormatInt(int64(asked.Sub(began)), 10)); err != nil {
				return lived, fmt.Errorf("ask after the subscription: %w", err)
			}
		}
		message, err := subscription.ReceiveTimeout(ctx, pingEvery)
		if err == nil {
			heard = time.Now()
			lived = true
			c.hear(message, began)
			continue
		}
		if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
			return lived, err
		}
		if time.Since(heard) >= trustFor {
			return lived, errSilent
		}
	}
}

// hear takes account of what the subscription says. The library may have subscribed again on its own, and what was said in
// between is lost: its confirmation always means a fresh start. What is in memory counts from when the server was asked: its
// answer may have been under way for a while, and what it has said since may be late or lost as well.
func (c *Results) hear(message any, began time.Time) {
	switch m := message.(type) {
	case *redis.Subscription:
		c.memory.clear()
	case *redis.Message:
		c.heed(m.Payload)
	case *redis.Pong:
		if after, err := strconv.ParseInt(m.Payload, 10, 64); err == nil {
			c.memory.trust(began.Add(time.Duration(after)))
		}
	}
}

func (c *Results) heed(payload string) {
	n := notice{Selection: &Selection{}}
	if err := json.Unmarshal([]byte(payload), &n); err != nil || n.Selection == nil {
		c.log.Warn("Not understood what is invalidated: everything is dropped from memory", "error", err)
		n = notice{Selection: &Selection{All: true}}
	}
	if n.From != c.id { // that has been done
		c.drop(n.Selection)
	}
}
