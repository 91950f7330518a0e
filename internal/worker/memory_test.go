package worker_test

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// maxResident is what a worker may occupy at its peak, whatever the size of a transaction.
const maxResident = 100 << 20

const everyOrder = `
observers:
  every: {entity: Order, actions: [{type: log, level: debug}]}
`

// TestCrashBigTransaction reads one large transaction with an observer that wants every row of it, and is killed in its
// middle. The next worker resumes in it, and neither needs more memory than for small ones.
func TestCrashBigTransaction(t *testing.T) {
	t.Parallel()
	rows := 100_000
	if full() {
		rows = 1_000_000
	}
	r := newRig(t)
	config := r.write(everyOrder)
	first := r.spawn(t, config)
	// Rows of about 500 bytes, one in ten thousand with a megabyte.
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('n', n, 'note',
			(SELECT string_agg(md5(n::text || k), '') FROM generate_series(1, CASE WHEN n % 10000 = 5000 THEN 30000 ELSE 12 END) k))
		FROM generate_series(1, $1) n`, rows)
	at := func() int {
		n, err := strconv.Atoi(r.one("SELECT tx_index::text FROM weir.checkpoint"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	r.awaitFor(5*time.Minute, "the middle of it", func() bool { return at() > rows/3 })
	peaks := []int{first.resident(t)}
	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	stored := at()
	if stored == 0 || stored >= rows {
		t.Fatalf("it was killed at %d of %d: not in the middle", stored, rows)
	}
	second := r.spawn(t, config)
	r.awaitFor(15*time.Minute, "all of it", func() bool {
		return r.one("SELECT (tx_index = 0 AND events >= $1::text::bigint)::text FROM weir.checkpoint", fmt.Sprint(rows)) == "true"
	})
	peaks = append(peaks, second.resident(t))
	r.await("the second worker counts what came after the checkpoint, and no more", func() bool {
		return second.metric(t, "weir_capture_changes_total") == float64(rows-stored)
	})
	want := fmt.Sprintf("%d %d", rows, rows)
	if got := r.one("SELECT (SELECT count(*) FROM weir.event) || ' ' || count(DISTINCT args->>'pk') FROM job"); got != want {
		t.Errorf("events and jobs: %s, want %s", got, want)
	}
	t.Logf("killed at %d of %d rows; resident at the peak: %d MB before, %d MB after", stored, rows, peaks[0]>>20, peaks[1]>>20)
	for _, peak := range peaks {
		if peak > maxResident {
			t.Errorf("%d MB resident, more than %d MB", peak>>20, maxResident>>20)
		}
	}
}

// TestCrashManyDeliveries: a batch is bounded by its changes, and each of them may lead to many deliveries.
func TestCrashManyDeliveries(t *testing.T) {
	t.Parallel()
	rows := 10_000
	if full() {
		rows = 30_000
	}
	var observers strings.Builder
	observers.WriteString("observers:\n")
	for i := range 10 {
		fmt.Fprintf(&observers, "  o%d: {entity: Order, actions: [{type: log, name: a, level: debug}, {type: log, name: b, level: debug}]}\n", i)
	}
	r := newRig(t)
	w := r.spawn(t, r.write(observers.String()))
	r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
		SELECT 'Order', 'INSERT', gen_random_uuid(), jsonb_build_object('n', n) FROM generate_series(1, $1) n`, rows)
	r.awaitFor(10*time.Minute, "all of it", func() bool {
		return r.one("SELECT (tx_index = 0 AND events >= $1::text::bigint)::text FROM weir.checkpoint", fmt.Sprint(rows)) == "true"
	})
	if got := r.one("SELECT max(id)::text FROM weir.river_job WHERE kind <> 'weir_housekeeping'"); len(got) < len(fmt.Sprint(20*rows)) {
		t.Errorf("the newest job is %s, of %d at least", got, 20*rows)
	}
	peak := w.resident(t)
	t.Logf("%d rows, 20 deliveries each; resident at the peak: %d MB", rows, peak>>20)
	if peak > maxResident {
		t.Errorf("%d MB resident, more than %d MB", peak>>20, maxResident>>20)
	}
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// resident is the most memory that the worker has occupied so far, in bytes; 0 where the system does not tell.
func (p *process) resident(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	kb, err := strconv.Atoi(highWater.FindStringSubmatch(string(status))[1])
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
