package worker_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ticks is the unit of /proc's CPU times, per second (getconf CLK_TCK: 100 wherever Linux runs Go).
const ticks = 100

// cpu is the processor time that the worker has used so far.
func (p *process) cpu(t *testing.T) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var sum int
	for _, field := range fields[11:13] { // utime and stime, proc_pid_stat(5)
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks
}

// TestChaosIdle says what an idle worker costs. It fails where something polls in a circle, not for a few queries more.
func TestChaosIdle(t *testing.T) {
	t.Parallel()
	length := 20 * time.Second
	if full() {
		length = 5 * time.Minute
	}
	_, r := ownServer(t, map[string]string{
		"log_statement": "all", "log_line_prefix": "%d|%a|",
		"autovacuum": "off", // it would be busy with what migrations have written, here and in the template
	})
	w := r.spawn(t, r.write("source: {slot: "+r.slot+"}\n"+everyOrder)) // with the default heartbeat
	r.order(`{}`)
	r.await("a delivery", func() bool { return r.jobs("state = 'completed'") == "1" })
	r.await("housekeeping", func() bool { return r.one("SELECT count(*)::text FROM weir.river_job") == "1" })
	time.Sleep(2 * time.Second)

	statements := func() int {
		n, err := strconv.Atoi(r.one(`
			SELECT count(*)::text FROM regexp_split_to_table(pg_read_file(current_setting('data_directory') || '/../server.log'), '\n') line
			WHERE line ~ ('^' || current_database() || '\|weir:.*\|LOG:  (statement|execute [^ ]+):')`))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	wal := func() int {
		n, err := strconv.Atoi(r.one("SELECT (pg_current_wal_lsn() - '0/0')::bigint::text"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	began, cpu, queries, written := time.Now(), w.cpu(t), statements(), wal()
	time.Sleep(length)
	seconds := time.Since(began).Seconds()
	cpu, queries, written = w.cpu(t)-cpu, statements()-queries, wal()-written
	t.Logf("an idle worker, for %.0f s: %.1f queries/s, %.0f bytes of WAL/s, %.2f %% of a processor; %d MB resident",
		seconds, float64(queries)/seconds, float64(written)/seconds, 100*cpu.Seconds()/seconds, w.resident(t)>>20)
	if limit := 20 * seconds; float64(queries) > limit {
		t.Errorf("%d queries in %.0f s: something polls in a circle", queries, seconds)
	}
}

// maxRetained is how much WAL an idle captured table may hold back on a busy server.
const maxRetained = 64 << 20

// TestChaosIdleTableOnABusyServer: nobody writes to the captured table, while another database of the server writes much.
// The slot lets go of it all the same.
func TestChaosIdleTableOnABusyServer(t *testing.T) {
	t.Parallel()
	megabytes := 200
	if full() {
		megabytes = 1000
	}
	server, r := ownServer(t, nil)
	r.spawn(t, r.write("source: {slot: "+r.slot+"}\n"+everyOrder)) // with the default heartbeat
	r.order(`{}`)
	r.await("a delivery", func() bool { return r.jobs("state = 'completed'") == "1" })

	otherURL, _, err := server.EmptyDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := pgx.Connect(t.Context(), otherURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.WithoutCancel(t.Context())) }()
	begin := r.one("SELECT pg_current_wal_lsn()::text")
	if _, err := other.Exec(t.Context(), "CREATE TABLE noise (a text)"); err != nil {
		t.Fatal(err)
	}
	for range megabytes / 10 { // about 10 MB of WAL each
		_, err := other.Exec(t.Context(), "INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 9500)")
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := r.one("SELECT (pg_current_wal_lsn() - $1::text::pg_lsn > $2::text::numeric * 1e6)::text", begin, fmt.Sprint(megabytes)); n != "true" {
		t.Fatalf("the other database wrote less than %d MB", megabytes)
	}
	// At most 10 s until a heartbeat, 15 s until the server writes down what runs, 10 s until the next heartbeat.
	written := time.Now()
	r.await("the slot lets go", func() bool {
		return r.one("SELECT (pg_current_wal_lsn() - restart_lsn < $1::text::numeric)::text FROM pg_replication_slots WHERE slot_name = $2",
			fmt.Sprint(maxRetained), r.slot) == "true"
	})
	t.Logf("%s after %d MB had been written, the slot holds %s bytes", time.Since(written).Round(time.Second), megabytes,
		r.one("SELECT (pg_current_wal_lsn() - restart_lsn)::text FROM pg_replication_slots WHERE slot_name = $1", r.slot))
}

// TestCrashBackPressure has the database stand still for several of the server's timeouts while changes come in: they wait
// in the socket, not in the worker, and the server keeps hearing from it.
func TestCrashBackPressure(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	_, r := ownServer(t, map[string]string{"wal_sender_timeout": fmt.Sprint(timeout.Milliseconds())})
	w := r.spawn(t, r.write(everyOrder))
	r.order(`{}`)
	r.await("a delivery", func() bool { return r.jobs("state = 'completed'") == "1" })
	sender := r.one("SELECT pid::text FROM pg_stat_replication")

	lock, err := r.conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(t.Context(), "LOCK TABLE weir.checkpoint"); err != nil {
		t.Fatal(err)
	}
	writer := rigOn(t, r.url)
	const rows = 15_000 // of 10 kB
	writer.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('n', n, 'note', (SELECT string_agg(md5(n::text || k), '')
			FROM generate_series(1, 312) k)) FROM generate_series(1, $1) n`, rows)
	time.Sleep(5 * timeout)
	if got := writer.one("SELECT coalesce(max(pid)::text, 'none') FROM pg_stat_replication"); got != sender {
		t.Errorf("the stream was interrupted: WAL sender %s, before %s", got, sender)
	}
	if taken := w.metric(t, "weir_capture_changes_total"); taken != 1 {
		t.Errorf("%v changes were taken while the checkpoint was locked", taken)
	}
	peak := w.resident(t)
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.awaitFor(3*time.Minute, "all of them", func() bool { return writer.one("SELECT events::text FROM weir.checkpoint") == fmt.Sprint(rows+1) })
	if got := writer.one("SELECT epoch::text FROM weir.checkpoint"); got != "1" {
		t.Errorf("epoch %s: the stream was interrupted", got)
	}
	t.Logf("150 MB waited for %s; resident at the peak: %d MB while they waited, %d MB in all", 5*timeout, peak>>20, w.resident(t)>>20)
	if all := w.resident(t); all > maxResident {
		t.Errorf("%d MB resident, more than %d MB", all>>20, maxResident>>20)
	}
}
