package jobs

import "testing"

func TestQueueName(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for endpoint, want := range map[string]string{
		"erp":                   "erp",
		"erp.example.org":       "erp_example_org",
		"erp.example.org:8443":  "erp_example_org-8443",
		"my-erp.example.org":    "my-erp_example_org",
		"127.0.0.1:9000":        "127_0_0_1-9000",
		"[::1]:9000":            "1_9000-b2170fb2",
		"a_b":                   "a_b-648fa9b3",
		"a.b":                   "a_b",
		"xn--bcher-kva.example": "xn_bcher_kva_example-970ca6b7",
		"weir_change":           "weir_change-fe00de7f",
		"Slack Team":            "slack_team-dd8be8d9",
		"log":                   "log",
	} {
		got := QueueName(endpoint)
		if got != want {
			t.Errorf("QueueName(%q) = %q, want %q", endpoint, got, want)
		}
		if !riverQueue.MatchString(got) || len(got) > 64 {
			t.Errorf("QueueName(%q) = %q: River would refuse it", endpoint, got)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%q and %q share the queue %q", endpoint, other, got)
		}
		seen[got] = endpoint
	}
}
