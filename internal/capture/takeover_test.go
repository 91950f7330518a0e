package capture

import (
	"testing"
	"time"
)

// What a standby thinks of who has the slot, after it has watched for so long, second by second.
func TestJudgeOfTheHolder(t *testing.T) {
	t.Parallel()
	const leaseTime = 10 * time.Second
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) func(now time.Time) *time.Time {
		return func(now time.Time) *time.Time { at := now.Add(-d); return &at }
	}
	// since is somebody who said it once, so long before the watch began.
	since := func(d time.Duration) func(now time.Time) *time.Time {
		return func(time.Time) *time.Time { at := start.Add(-d); return &at }
	}
	for name, tt := range map[string]struct {
		owner, worker, met bool
		said               func(now time.Time) *time.Time
		watched            time.Duration
		pause              time.Duration // of everything, two seconds before the end
		mayNot             bool
		want               opinion
	}{
		"a healthy owner":                      {owner: true, worker: true, said: ago(2 * time.Second), watched: time.Hour, want: isAlive},
		"one that is a little late":            {owner: true, worker: true, said: ago(5 * time.Second), watched: time.Hour, want: isAlive},
		"one that others may declare dead":     {owner: true, worker: true, said: ago(7 * time.Second), watched: time.Hour, want: isSilent},
		"one whose time is nearly up":          {owner: true, worker: true, said: since(0), watched: 7 * time.Second, want: isSilent},
		"one whose time is up":                 {owner: true, worker: true, said: since(0), watched: 8 * time.Second, want: isOver},
		"but we may not tell":                  {owner: true, worker: true, said: since(0), watched: 8 * time.Second, mayNot: true, want: isSilent},
		"but we have only begun to watch":      {owner: true, worker: true, said: since(time.Minute), watched: 2 * time.Second, want: isSilent},
		"and we have watched for a while":      {owner: true, worker: true, said: since(time.Minute), watched: 3 * time.Second, want: isOver},
		"but the server stood still, too":      {owner: true, worker: true, said: since(0), watched: 8 * time.Second, pause: 4 * time.Second, want: isSilent},
		"declared dead":                        {owner: true, said: since(0), watched: 3 * time.Second, want: isOver},
		"declared dead before it was owner":    {met: true, said: since(0), watched: 8 * time.Second, want: isOver},
		"it has yet to take the checkpoint":    {worker: true, said: since(time.Hour), watched: 7 * time.Second, want: isSilent},
		"and never takes it":                   {worker: true, said: since(time.Hour), watched: 8 * time.Second, want: isOver},
		"and is alive":                         {worker: true, said: ago(time.Second), watched: time.Hour, want: isAlive},
		"nobody that we know, for a moment":    {watched: 4 * time.Second, want: isAlive},
		"nobody that we know":                  {watched: 5 * time.Second, want: isStranger},
		"nobody that we know, for a long time": {watched: time.Hour / 60, want: isStranger},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := watch{met: tt.met}
			var got opinion
			for at, now := time.Duration(0), start; at <= tt.watched; at, now = at+time.Second/2, now.Add(time.Second/2) {
				if tt.pause > 0 && at == tt.watched-2*time.Second {
					now = now.Add(tt.pause)
				}
				said := testimony{owner: tt.owner, worker: tt.worker, now: now}
				if tt.said != nil {
					said.said = tt.said(now)
				}
				got = w.judge(said, leaseTime, !tt.mayNot)
			}
			if got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}
