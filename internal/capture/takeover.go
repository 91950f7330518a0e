package capture

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/store"
)

const (
	// takeoverTime is what is left of source.lease for the takeover itself, once the owner's time is up.
	takeoverTime = 2 * time.Second
	// MinLease leaves an owner the time of one renewal of its lease and of one call that just did not time out, which is more
	// than a healthy one ever needs.
	MinLease = takeoverTime + 4*time.Second

	// Silent is how long an owner has said nothing of itself that others declare dead: lease.Expiry, which capture may not know.
	Silent = 6 * time.Second

	// lookAtOwner is how often a standby looks at what the owner says of itself. The slot it looks at more often.
	lookAtOwner = 500 * time.Millisecond
	// unbrokenLooks is the longest pause between two looks, by the database's clock, after which the standby has watched
	// without a break. A server that stood still for longer has kept the owner from renewing its lease, too.
	unbrokenLooks = 2 * time.Second
	// patience is for how long a standby has to have watched without a break: an owner whose renewal was broken off has
	// renewed its lease by then.
	patience = 3 * time.Second
	// endPoll is how soon the slot is looked at again when the sessions of its owner were told to end.
	endPoll = 20 * time.Millisecond
	// strangeFor is how long a stranger may have the slot before we speak of it: somebody may only be looking into it.
	strangeFor = 5 * time.Second
)

// holder is the session that has the slot.
type holder struct {
	PID         int32
	Application string // its application_name; "": the session is gone, or has none
}

// client is the worker that the session belongs to, by the name that it gave itself; "" for none.
func (h holder) client() string {
	client, ours := strings.CutPrefix(h.Application, appPrefix)
	if !ours {
		return ""
	}
	return client
}

// readHolder returns nil when nobody has the slot, or when there is none.
func readHolder(ctx context.Context, conn *pgx.Conn, slot Name) (*holder, error) {
	var h holder
	err := conn.QueryRow(ctx, `
		SELECT s.active_pid, coalesce(a.application_name, '')
		  FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
		 WHERE s.slot_name = $1 AND s.active`, string(slot)).Scan(&h.PID, &h.Application)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read who has the slot: %w", err)
	}
	return &h, nil
}

// testimony is what the database of schema weir says of who has the slot.
type testimony struct {
	owner  bool       // the checkpoint's is it
	worker bool       // it has a row in weir.worker
	said   *time.Time // when it last said that it reads the stream, or began to; nil: never
	now    time.Time
}

func readTestimony(ctx context.Context, db store.DBTX, client string) (t testimony, err error) {
	row, err := store.New().GetReader(ctx, db, client)
	if errors.Is(err, pgx.ErrNoRows) {
		return t, nil // no checkpoint yet: somebody is making it
	}
	if err != nil {
		return t, fmt.Errorf("read what the owner of the stream says: %w", err)
	}
	t = testimony{owner: row.Owner == client, worker: row.SeenAt != nil, said: row.StreamAt, now: row.Now}
	if t.said == nil {
		t.said = row.SeenAt
	}
	// What it said while it had the stream at an earlier time is not about this one.
	if t.owner && row.OwnedSince != nil && (t.said == nil || t.said.Before(*row.OwnedSince)) {
		t.said = row.OwnedSince
	}
	return t, nil
}

// mayBury says whether silence is the other's fault.
func (s *Stream) mayBury(t testimony) bool {
	if s.opts.MayBury == nil {
		return false
	}
	if t.said == nil {
		return s.opts.MayBury(time.Time{})
	}
	return s.opts.MayBury(*t.said)
}

// opinion is what a standby thinks of who has the slot.
type opinion int

const (
	isAlive opinion = iota
	isStranger
	isSilent // for as long as makes it dead to others
	isOver   // its time is up
)

// watch is a standby's, of one session that has the slot.
type watch struct {
	holder holder
	met    bool      // it had a row in weir.worker at some time
	since  time.Time // by the database's clock; watched without a break since
	last   time.Time
}

// judge forms an opinion. It is pure. leaseTime is source.lease, and mayBury the answer of Options.MayBury for what was said.
func (w *watch) judge(t testimony, leaseTime time.Duration, mayBury bool) opinion {
	w.met = w.met || t.worker
	if gap := t.now.Sub(w.last); gap < 0 || gap > unbrokenLooks {
		w.since = t.now
	}
	w.last = t.now
	watched := t.now.Sub(w.since)
	if !t.owner && !w.met {
		if watched < strangeFor {
			return isAlive // a worker that starts, or somebody who looks into the slot
		}
		return isStranger
	}
	silence := max(leaseTime, Silent) // its row is gone: others have declared it dead
	if t.worker && t.said != nil {
		silence = t.now.Sub(*t.said)
	}
	needed := patience
	if !t.owner { // it has the slot and has yet to take the checkpoint: what it said was of an earlier time
		needed, silence = leaseTime-takeoverTime, min(silence, watched)
	}
	switch {
	case mayBury && watched >= needed && silence >= leaseTime-takeoverTime:
		return isOver
	case silence >= Silent:
		return isSilent
	default:
		return isAlive
	}
}

// standby waits until the slot is free, or frees it of an owner that does not read.
type standby struct {
	*Stream
	src, dst *pgx.Conn
	watch    watch
	looked   time.Time // when the owner was looked at
	measured time.Time // when the slot's health was
	said     time.Time // when it last said that it reads, by this process's clock; zero: not known
	told     string    // what was logged
}

// wait returns when nobody has the slot.
func (b *standby) wait(ctx context.Context) error {
	for {
		h, err := readHolder(ctx, b.src, b.cfg.Slot)
		if err != nil {
			return err
		}
		if h == nil {
			b.left()
			return nil
		}
		if err := b.measure(ctx); err != nil {
			return err
		}
		pause := standbyPoll
		if *h != b.watch.holder {
			b.watch, b.looked, b.said = watch{holder: *h}, time.Time{}, time.Time{}
		}
		ended := false
		switch {
		case h.client() == b.opts.ClientID: // ours, on a connection that is dead without the server knowing
			b.log.Info("ending a session of this worker that still has the slot", "pid", h.PID)
			ended, err = b.endHolder(ctx)
		case time.Since(b.looked) >= lookAtOwner:
			b.looked = time.Now()
			ended, err = b.look(ctx)
		}
		if err != nil {
			return err
		}
		if ended {
			pause = endPoll
		}
		sleep(ctx, pause)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// measure keeps the slot's health, as its owner does.
func (b *standby) measure(ctx context.Context) error {
	if time.Since(b.measured) < b.cfg.Heartbeat.Std() {
		return nil
	}
	b.measured = time.Now()
	if _, err := b.metrics.measure(ctx, b.src, b.cfg.Slot); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("read the slot: %w", err)
	}
	return nil
}

// left keeps account of an owner that others have ended before us, for the same reason.
func (b *standby) left() {
	long := min(Silent, b.cfg.Lease.Std()-takeoverTime) - lookAtOwner
	if client := b.watch.holder.client(); client != "" && !b.said.IsZero() && time.Since(b.said) >= long {
		b.hung = client
	}
}

// look ends an owner whose time is up.
func (b *standby) look(ctx context.Context) (ended bool, err error) {
	client := b.watch.holder.client()
	t := testimony{now: time.Now()}
	if client != "" {
		if t, err = readTestimony(ctx, b.dst, client); err != nil {
			return false, err
		}
		if t.now.IsZero() {
			return false, nil
		}
	}
	if t.said != nil {
		b.said = time.Now().Add(-t.now.Sub(*t.said))
	}
	switch b.watch.judge(t, b.cfg.Lease.Std(), b.mayBury(t)) {
	case isStranger:
		b.sayStranger()
	case isSilent:
	case isOver:
		b.hung = client
		silent := "its lease is gone"
		if t.worker && t.said != nil {
			silent = t.now.Sub(*t.said).Round(time.Millisecond).String()
		}
		return b.endOwner(ctx, client, silent)
	case isAlive:
		b.say("", nil)
	}
	return false, nil
}

// say shows why we stand by where people look: once in the log, and in the health as long as it lasts. "" for no trouble.
func (b *standby) say(problem string, log func()) {
	var err error
	if problem != "" {
		err = errors.New(problem)
	}
	b.setHealth(Standby, err)
	if problem != b.told && problem != "" {
		log()
	}
	b.told = problem
}

func (b *standby) sayStranger() {
	h := b.watch.holder
	problem := fmt.Sprintf("slot %s is read by somebody who is no worker of this database (pid %d, application_name %q)",
		b.cfg.Slot, h.PID, h.Application)
	b.say(problem, func() {
		b.log.Error("standing by for a stranger: the slot is read by somebody who is no worker of this database",
			"slot", b.cfg.Slot, "pid", h.PID, "application_name", h.Application,
			"mend", fmt.Sprintf("give each installation a slot of its own with source.slot, or, if it should not be there: "+
				"SELECT pg_terminate_backend(%d);", h.PID))
	})
}

// endHolder ends the session that has the slot, if it is still the one that was judged.
func (b *standby) endHolder(ctx context.Context) (ended bool, err error) {
	h := b.watch.holder
	err = b.src.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid)) > 0
		  FROM pg_replication_slots s JOIN pg_stat_activity a ON a.pid = s.active_pid
		 WHERE s.slot_name = $1 AND s.active AND a.pid = $2 AND a.application_name = $3`,
		string(b.cfg.Slot), h.PID, h.Application).Scan(&ended)
	return ended, err
}

// endOwner ends all sessions of an owner that does not read the stream any more: the one that has the slot, and those that may
// hold locks, on the checkpoint's row for one.
func (b *standby) endOwner(ctx context.Context, client, silent string) (ended bool, err error) {
	ended, err = b.endHolder(ctx)
	if hasCode(err, "42501") {
		b.sayDenied(err, b.src, "source.url")
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("end the session that has the slot: %w", err)
	}
	if !ended {
		return false, nil // it has changed since it was looked at
	}
	b.log.Warn("ended the owner of the stream, which hangs or is cut off: taking over",
		"client_id", client, "pid", b.watch.holder.PID, "silent", silent)
	for _, place := range []struct {
		conn *pgx.Conn
		url  string
	}{{b.dst, "database.url"}, {b.src, "source.url"}} {
		err := endSessions(ctx, []string{client}, place.conn)
		if errors.Is(err, errMayNotEnd) {
			b.sayDenied(err, place.conn, place.url) // it may hold a lock; the take of the checkpoint says so if it does
			continue
		}
		if err != nil {
			return true, fmt.Errorf("end the sessions of the owner before: %w", err)
		}
	}
	return true, nil
}

var errMayNotEnd = errors.New("this role may not end the sessions of workers whose time is up")

// signalGrant is what lets a worker end the sessions of workers that have another role.
func signalGrant(conn *pgx.Conn) string {
	return fmt.Sprintf("GRANT pg_signal_backend TO %s;", pgx.Identifier{conn.Config().User}.Sanitize())
}

func (b *standby) sayDenied(err error, conn *pgx.Conn, url string) {
	grant := signalGrant(conn)
	b.say("the owner of the stream hangs, and this worker may not end its sessions; to mend it: "+grant, func() {
		b.log.Error("the owner of the stream hangs or is cut off, and this role may not end its sessions",
			"client_id", b.watch.holder.client(), "pid", b.watch.holder.PID, "server", url, "error", err, "mend", grant)
	})
}

// endOwn ends the session of an earlier attempt that stored batches, if the server has not noticed that its connection is dead:
// it may hold the checkpoint's row.
func (s *Stream) endOwn(ctx context.Context, dst *pgx.Conn) error {
	before := s.ingestPID
	s.ingestPID = dst.PgConn().PID()
	if before == 0 || before == s.ingestPID {
		return nil
	}
	_, err := dst.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = $2`,
		int32(before), appPrefix+s.opts.ClientID)
	if err != nil {
		return fmt.Errorf("end this worker's own session of before: %w", err)
	}
	return nil
}

// reasonOf says why we could take the stream from another worker.
func (s *Stream) reasonOf(before string) string {
	if s.hung == before {
		return takenFromHung
	}
	return takenVacant
}
