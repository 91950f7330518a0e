package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fraiseql/weir/internal/lease"
	"github.com/fraiseql/weir/internal/ops"
)

// note is something that a person should know, with what to do about it.
type note struct {
	Level string // bad or warn
	Text  string
	Do    string // a command or statement, "" for none
	Link  string // to one of our pages, "" for none
	To    string // the link's text
}

// lateHistory is a lag that is not the moment which every event takes.
const lateHistory = 10 * time.Second

// notesOf are all that a status gives reason for, the worst first.
func notesOf(s *ops.Status) []note {
	all := streamNotes(s)
	all = append(all, slotNotes(s)...)
	all = append(all, workerNotes(s)...)
	all = append(all, pauseNotes(s)...)
	all = append(all, deliveryNotes(s)...)
	for _, h := range s.History {
		if lag := time.Duration(h.LagSeconds * float64(time.Second)); lag >= lateHistory {
			all = append(all, note{Level: "warn", Text: fmt.Sprintf("The history in %s is %s behind: newer events cannot be found yet.",
				h.Store, span(lag))})
		}
	}
	slices.SortStableFunc(all, func(a, b note) int { return cmp.Compare(a.Level, b.Level) })
	return all
}

func streamNotes(s *ops.Status) []note {
	switch s.Stream.State {
	case ops.StreamGap:
		return []note{{Level: "bad", Do: s.Stream.Mend, Text: "There is a gap (" + s.Stream.Lost + "): changes are missing that " +
			"cannot be made up for, so nothing is captured until somebody has accepted it."}}
	case ops.StreamLost:
		return []note{{Level: "bad", Text: fmt.Sprintf("The server removed WAL that slot %s still needed. "+
			"A worker that starts makes the slot again and recovers from the change log.", s.Stream.Slot)}}
	case ops.StreamNoSlot:
		return []note{{Level: "bad", Text: fmt.Sprintf("Slot %s does not exist any more. "+
			"A worker that starts makes it again and recovers from the change log.", s.Stream.Slot)}}
	case ops.StreamStopped:
		return []note{{
			Level: "bad", Text: "Nobody reads the stream, and its slot holds WAL. If workers run, this says why they do not:",
			Do: "weir doctor",
		}}
	case ops.StreamNotStarted:
		return []note{{Level: "warn", Text: "No worker has been here yet. Start one:", Do: "worker --config weir.yaml"}}
	case ops.StreamRecovering:
		return []note{{Level: "warn", Text: fmt.Sprintf("The stream is being recovered from the change log (%s): "+
			"%s of about %s rows compared.", s.Stream.Lost, number(s.Stream.RecoveryRead), number(s.Stream.RecoveryRows))}}
	case ops.StreamStreaming:
		if !s.Stream.ReaderKnown {
			return []note{{Level: "bad", Text: fmt.Sprintf("%s has slot %s and is no worker: workers stand by for it.",
				s.Stream.Reader, s.Stream.Slot)}}
		}
	default:
	}
	return nil
}

func slotNotes(s *ops.Status) (all []note) {
	switch s.Stream.WALStatus {
	case "unreserved":
		all = append(all, note{Level: "bad", Text: "The slot holds more WAL than max_slot_wal_keep_size: the server may " +
			"remove what it needs at its next checkpoint."})
	case "extended":
		all = append(all, note{Level: "warn", Text: "The slot holds more WAL than max_wal_size: the reader is behind."})
	}
	if lag := s.Stream.LagSeconds; lag != nil && *lag >= lateHistory.Seconds() && s.Stream.State == ops.StreamStreaming {
		all = append(all, note{Level: "warn", Text: fmt.Sprintf("The stream is %s behind (%s of WAL).",
			span(time.Duration(*lag*float64(time.Second))), ops.Size(s.Stream.LagBytes))})
	}
	for _, snap := range s.Snapshots {
		text := fmt.Sprintf("The snapshot of %s has not begun.", snap.Table)
		if snap.Joins != nil {
			text = fmt.Sprintf("The snapshot of %s is under way: %s so far.", snap.Table, count(snap.Rows, "row"))
		}
		all = append(all, note{Level: "warn", Text: text})
	}
	return all
}

func workerNotes(s *ops.Status) (all []note) {
	if len(s.Workers) == 0 && s.Stream.State != ops.StreamNotStarted {
		all = append(all, note{Level: "bad", Text: "No worker is running, so nothing is delivered."})
	}
	for _, w := range s.Workers {
		switch w.Role {
		case ops.RoleHanging:
			all = append(all, note{Level: "bad", Text: "Worker " + w.ClientID + " has the slot and gives no sign of life: " +
				"a standby takes over."})
		case ops.RoleDead:
			silent := span(max(lease.Expiry, time.Time(s.Time).Sub(time.Time(w.SeenAt))))
			all = append(all, note{Level: "warn", Text: "Worker " + w.ClientID + " has given no sign of life for " + silent +
				": others take over what it was running."})
		default:
		}
		if w.ConfigProblem != "" {
			all = append(all, note{
				Level: "warn", Text: "Worker " + w.ClientID + " works with an older configuration: " + ops.Short(w.ConfigProblem, 300),
				Do: "weir validate-config",
			})
		}
	}
	return all
}

// pauseNotes is for those who wonder why nothing comes, and for what somebody has forgotten.
func pauseNotes(s *ops.Status) (all []note) {
	for _, p := range s.Paused {
		text := "Paused: " + p.What() + ", for " + span(time.Time(s.Time).Sub(time.Time(p.Since)))
		if p.By != "" {
			text += ", by " + p.By
		}
		if p.Reason != "" {
			text += ": " + strings.TrimSuffix(ops.Short(p.Reason, 200), ".")
		}
		resume := "weir resume"
		switch p.Scope {
		case ops.ScopeStream:
			resume += " --stream"
		case ops.ScopeEndpoint, ops.ScopeObserver:
			resume += " --" + string(p.Scope) + " " + p.Name
		case ops.ScopeDeliveries:
		}
		all = append(all, note{Level: "warn", Text: text + ".", Do: resume})
	}
	return all
}

func deliveryNotes(s *ops.Status) (all []note) {
	for _, b := range s.Breakers {
		level, text := "bad", "The breaker of "+b.Endpoint+" is "+b.State
		if b.State != "open" {
			level = "warn"
		}
		if b.Reason != "" {
			text += ": " + ops.Short(b.Reason, 200)
		}
		all = append(all, note{Level: level, Text: strings.TrimSuffix(text, ".") + ".", Link: "/endpoints", To: "Endpoints"})
	}
	for _, g := range s.Gone {
		all = append(all, note{
			Level: "bad", Text: "The target of " + g.Name() + " is gone: new deliveries become dead letters.",
			Link: "/endpoints", To: "Endpoints",
		})
	}
	if dead := deadLetters(s); dead > 0 {
		text := count(dead, "dead letter") + " wait for a person."
		if dead == 1 {
			text = "1 dead letter waits for a person."
		}
		all = append(all, note{Level: "bad", Text: text, Link: "/dead-letters", To: "Dead letters"})
	}
	return all
}

func deadLetters(s *ops.Status) (n int64) {
	for _, d := range s.DeadLetters {
		n += d.Jobs
	}
	return n
}
