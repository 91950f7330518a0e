package worker

import "github.com/prometheus/client_golang/prometheus"

// Registry is what /metrics serves.
func (w *Worker) Registry() *prometheus.Registry { return w.registry }
