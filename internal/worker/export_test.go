package worker

import "github.com/prometheus/client_golang/prometheus"

// FixedKeys are those that need a restart.
func FixedKeys() []string {
	keys := make([]string, len(fixed))
	for i, f := range fixed {
		keys[i] = f.key
	}
	return keys
}

// Registry is what /metrics serves.
func (w *Worker) Registry() *prometheus.Registry { return w.registry }
