package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/fraiseql/weir/internal/ops"
)

func newStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say how the stream, the queues and the workers are doing",
		Long:  "Say how the stream, the queues and the workers are doing. The exit code is 5 if there is a gap in the stream.",
		Args:  noArguments,
		RunE:  a.does(a.status),
	}
}

func (a *app) status(ctx context.Context, _ []string) error {
	return a.withBoth(ctx, func(s *settings, conn, source *pgx.Conn) error {
		status, err := ops.ReadStatus(ctx, conn, source, s.capture)
		if err != nil {
			return err
		}
		if a.knowsPlaces(ctx, s) == nil { // else a worker refuses for that
			status.CheckStart(ctx, conn, source, s.capture, s.name)
		}
		if s.file != nil && s.mistakes == nil {
			status.UseHistory(s.file.History)
		}
		if err := a.print(status, func(w io.Writer) { a.writeStatus(w, status) }); err != nil || !status.Gap() {
			return err
		}
		return errGap
	})
}

func (a *app) writeStatus(w io.Writer, s *ops.Status) {
	var t table
	t.add(cell{"stream", bold}, a.streamCell(s))
	if s.Stream.Mend != "" {
		t.add(c("to mend it"), cell{s.Stream.Mend, quoted})
	}
	if s.Stream.Confirmed != nil {
		t.add(c("slot"), c(slotText(s.Stream)))
	}
	if cp := s.Checkpoint; cp != nil {
		now := time.Time(s.Time)
		t.add(c("checkpoint"), c(fmt.Sprintf("%s+%d, moved %s, %s",
			cp.LSN, cp.TxIndex, ago(now, cp.UpdatedAt), count(cp.Events, "event"))))
		t.add(c("newest change"), c("committed "+agoAndWhen(now, cp.CommitTime)))
		t.add(c("owner"), c(ownerText(cp, now)))
	}
	for _, h := range s.History {
		t.add(c("history"), historyCell(h, time.Time(s.Time)))
	}
	for _, snap := range s.Snapshots {
		t.add(c("snapshot"), snapshotCell(snap, time.Time(s.Time)))
	}
	t.add(c("installation"), c(orDash(s.Installation)))
	t.add(c("versions"), c(fmt.Sprintf("schema %d, PostgreSQL %s", s.SchemaVersion, s.ServerVersion)))
	t.write(a, w)
	a.writeWorkers(w, s)
	a.writeQueues(w, s)
	a.writePaused(w, s)
	a.writeStopped(w, s)
	a.writeDeadCounts(w, s)
}

func ownerText(cp *ops.Checkpoint, now time.Time) string {
	text := fmt.Sprintf("%s, epoch %d", orDash(cp.Owner), cp.Epoch)
	if since := time.Time(cp.OwnedSince); !since.IsZero() && cp.Owner != "" {
		text += ", since " + span(now.Sub(since))
	}
	return text
}

func slotText(s ops.Stream) string {
	text := fmt.Sprintf("%s, confirmed %s, %s behind", s.Slot, s.Confirmed, ops.Size(s.LagBytes))
	if s.LagSeconds != nil && *s.LagSeconds > 0 {
		text += " (" + span(time.Duration(*s.LagSeconds*float64(time.Second))) + ")"
	}
	return text + ", holds " + ops.Size(s.RetainedBytes) + " of WAL"
}

func snapshotCell(s ops.Snapshot, now time.Time) cell {
	if s.Joins == nil {
		return cell{fmt.Sprintf("%s: asked for %s, has not begun", s.Table, ago(now, s.AskedAt)), yellow}
	}
	return cell{fmt.Sprintf("%s: %d rows so far, asked for %s", s.Table, s.Rows, ago(now, s.AskedAt)), yellow}
}

// lateHistory is a lag that is not the moment which every event takes.
const lateHistory = 10 * time.Second

func historyCell(h ops.HistoryStatus, now time.Time) cell {
	lag := time.Duration(h.LagSeconds * float64(time.Second))
	text := fmt.Sprintf("%s: up to event %d, written to %s", h.Store, h.EventSeq, ago(now, h.UpdatedAt))
	switch {
	case lag == 0:
		return c(text)
	case lag < lateHistory:
		return c(text + ", " + span(lag) + " behind")
	default:
		return cell{text + ", " + span(lag) + " behind", yellow}
	}
}

// streamCell says what the state means, and what to do about it.
func (a *app) streamCell(s *ops.Status) cell {
	if s.Stream.Problem != "" {
		return cell{fmt.Sprintf("%s: nobody reads it, and a worker refuses: %s", words(s.Stream.State), s.Stream.Problem), red}
	}
	switch s.Stream.State {
	case ops.StreamStreaming:
		if !s.Stream.ReaderKnown {
			return cell{fmt.Sprintf("streaming, but not by a worker: %s has slot %s, and workers stand by for it",
				s.Stream.Reader, s.Stream.Slot), red}
		}
		if slices.ContainsFunc(s.Workers, func(w ops.Worker) bool { return w.Role == ops.RoleHanging }) {
			return cell{"hanging: " + s.Stream.Reader + " has the slot and gives no sign of life; a standby takes over", yellow}
		}
		return cell{"streaming: read by " + s.Stream.Reader, green}
	case ops.StreamNotStarted:
		return cell{"not started: no worker has been here yet; start one with: worker", yellow}
	case ops.StreamPaused:
		return cell{"paused: nobody reads it, and its slot holds WAL; to go on: weir resume --stream", yellow}
	case ops.StreamStopped:
		return cell{"stopped: nobody reads it, and its slot holds WAL; start a worker", red}
	case ops.StreamNoSlot:
		return cell{fmt.Sprintf("no slot: %s does not exist any more; a worker makes it again and recovers from the change log",
			s.Stream.Slot), red}
	case ops.StreamLost:
		return cell{fmt.Sprintf("lost: the server removed WAL that slot %s still needed; a worker makes it again and recovers from "+
			"the change log", s.Stream.Slot), red}
	case ops.StreamRecovering:
		return cell{fmt.Sprintf("recovering: %d of about %s of the change log compared with what was ingested (%s)",
			s.Stream.RecoveryRead, count(s.Stream.RecoveryRows, "row"), s.Stream.Lost), yellow}
	case ops.StreamGap:
		return cell{"gap: changes are missing that cannot be made up for, so nothing is captured: " + s.Stream.Lost, red}
	default:
		return c(string(s.Stream.State))
	}
}

func words(state ops.StreamState) string { return strings.ReplaceAll(string(state), "_", " ") }

func (a *app) writeWorkers(w io.Writer, s *ops.Status) {
	if len(s.Workers) == 0 {
		fmt.Fprintln(w, "\nno worker is running")
		return
	}
	fmt.Fprintln(w)
	now := time.Time(s.Time)
	t := table{header: []string{"WORKER", "ROLE"}}
	for _, worker := range s.Workers {
		t.add(c(worker.ClientID), roleCell(worker, now))
		t.detail(dim, fmt.Sprintf("%s, pid %d, version %s, started %s", worker.Hostname, worker.PID, worker.Version,
			ago(now, worker.StartedAt)))
	}
	t.write(a, w)
	for _, worker := range s.Workers {
		if worker.ConfigProblem != "" {
			fmt.Fprintln(w)
			a.sayf(w, "%s works with the configuration of %s:\n  %s\n", worker.ClientID, ago(now, worker.ConfigLoadedAt),
				worker.ConfigProblem)
		}
	}
}

func roleCell(worker ops.Worker, now time.Time) cell {
	switch worker.Role {
	case ops.RoleHanging:
		return cell{"hanging: has the slot, last read it " + ago(now, worker.StreamAt), red}
	case ops.RoleDead:
		return cell{"dead: last seen " + ago(now, worker.SeenAt), red}
	case ops.RoleReader:
		return c("reads the stream")
	case ops.RoleStandby:
		return c("standby")
	default:
		return c(string(worker.Role))
	}
}

func (a *app) writeQueues(w io.Writer, s *ops.Status) {
	if len(s.Queues) == 0 {
		fmt.Fprintln(w, "\nno deliveries are waiting")
		return
	}
	fmt.Fprintln(w)
	t := table{header: []string{"QUEUE", "STATE", "JOBS", "OLDEST DUE"}}
	for _, q := range s.Queues {
		t.add(c(q.Queue), c(q.State), c(strconv.FormatInt(q.Jobs, 10)), c(ago(time.Time(s.Time), q.Oldest)))
	}
	t.write(a, w)
}

// writeStopped says which endpoints and actions get no deliveries.
func (a *app) writeStopped(w io.Writer, s *ops.Status) {
	if len(s.Breakers)+len(s.Gone) == 0 {
		return
	}
	fmt.Fprintln(w)
	now := time.Time(s.Time)
	for _, b := range s.Breakers {
		state := breakerCell(b)
		fmt.Fprintf(w, "circuit breaker of %s: %s since %s\n", b.Endpoint, a.paint(state.style, state.text),
			span(now.Sub(time.Time(b.Since))))
	}
	for _, g := range s.Gone {
		fmt.Fprintf(w, "action %s: %s since %s\n", g.Name(), a.paint(red, "gone"), span(now.Sub(time.Time(g.Since))))
	}
	fmt.Fprintln(w, "Look at them with: weir breaker list")
}

func (a *app) writeDeadCounts(w io.Writer, s *ops.Status) {
	if len(s.DeadLetters) == 0 {
		fmt.Fprintln(w, "\nno dead letters")
		return
	}
	fmt.Fprintln(w)
	t := table{header: []string{"OBSERVER", "DEAD LETTERS"}}
	for _, d := range s.DeadLetters {
		t.add(c(cmp.Or(d.Observer, ops.NoObserver)), cell{strconv.FormatInt(d.Jobs, 10), red})
	}
	t.write(a, w)
	fmt.Fprintln(w, "\nLook at them with: weir dlq list")
}
