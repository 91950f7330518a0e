package worker_test

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// BenchmarkRepeats holds deliveries that make no call, since their result is known or another delivery has made it, against
// those that make a call of 20 ms, in the same run: how long one takes, from its start to its end.
func BenchmarkRepeats(b *testing.B) {
	const calls = 100
	for b.Loop() {
		r := newRig(b)
		rc := newReceiver(b, func(http.ResponseWriter, *http.Request) { time.Sleep(20 * time.Millisecond) })
		run := r.started(fmt.Sprintf(`
redis: {url: %q, timeout: 5s}
outbound: {allow: [127.0.0.1]}
endpoints: {erp: {concurrency: 4}}
observers:
  cached:
    entity: Cached
    actions: [{type: webhook, url: %[2]q, endpoint: erp, cache: {key: "{{ n }}", ttl: 1h}}]
  deduped:
    entity: Deduped
    actions: [{type: webhook, url: %[2]q, endpoint: erp, dedup: {key: "{{ n }}", window: 1h}}]
`, postgres.Redis(b).URL(), rc.URL))
		done := 0
		took := func(entity string) time.Duration {
			sum, count := run.metric(b, "weir_delivery_duration_seconds_sum", ""), run.metric(b, "weir_delivery_duration_seconds_count", "")
			r.exec(`INSERT INTO core.tb_entity_change_log (object_type, modification_type, object_id, object_data)
				SELECT $1, 'INSERT', gen_random_uuid(), jsonb_build_object('n', n) FROM generate_series(1, $2::int) n`, entity, calls)
			done += calls
			r.await("the deliveries", func() bool { return r.jobs("state = 'completed'") == strconv.Itoa(done) })
			sum = run.metric(b, "weir_delivery_duration_seconds_sum", "") - sum
			count = run.metric(b, "weir_delivery_duration_seconds_count", "") - count
			return time.Duration(sum / count * float64(time.Second))
		}
		for _, entity := range []string{"Cached", "Deduped"} {
			call, repeat := took(entity), took(entity)
			b.ReportMetric(float64(repeat.Microseconds()), entity+"-µs")
			b.ReportMetric(float64(call)/float64(repeat), entity+"-times-quicker")
		}
		if n := len(rc.seen()); n != 2*calls {
			b.Fatalf("%d calls, expected %d", n, 2*calls)
		}
	}
}
