package weir_test

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const kubernetes = "deploy/kubernetes"

// What is not applied by `kubectl apply -k`, and why: the first is to be copied, the second needs the Prometheus operator.
var notApplied = []string{"secret.example.yaml", "podmonitor.yaml"}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	kustomization := documents(t, filepath.Join(kubernetes, "kustomization.yaml"))[0]
	applied := words(kustomization, "resources")
	files, err := filepath.Glob(filepath.Join(kubernetes, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := filepath.Base(f)
		if name != "kustomization.yaml" && name != "weir.yaml" && !slices.Contains(applied, name) && !slices.Contains(notApplied, name) {
			t.Errorf("%s is applied by nobody", f)
		}
	}
	objects := map[string]map[string]any{}
	for _, name := range append(slices.Clone(applied), notApplied...) {
		for _, one := range documents(t, filepath.Join(kubernetes, name)) {
			kind, want := text(one, "kind"), versions[text(one, "kind")]
			if want == "" || text(one, "apiVersion") != want {
				t.Errorf("%s: %s is of %s, want %q", name, kind, text(one, "apiVersion"), want)
			}
			for key := range one {
				if !slices.Contains([]string{"apiVersion", "kind", "metadata", "spec", "type", "stringData"}, key) {
					t.Errorf("%s: %s has a %s", name, kind, key)
				}
			}
			objects[kind+"/"+text(one, "metadata", "name")] = one
		}
	}
	for _, name := range words(kustomization, "configMapGenerator", 0, "files") {
		if _, err := os.Stat(filepath.Join(kubernetes, name)); err != nil {
			t.Error(err)
		}
	}

	secret := objects["Secret/weir"]
	cfg := loadFor(t, filepath.Join(kubernetes, "weir.yaml"), object(secret, "stringData"))
	workload(t, objects, "worker", "metrics", string(cfg.HTTP.Listen), "/readyz")
	workload(t, objects, "console", "http", string(cfg.Console.Listen), "/healthz")
	confined(t, "migrate", object(objects["Job/weir-migrate"], "spec", "template", "spec"))

	worker := object(objects["Deployment/weir-worker"], "spec")
	grace := duration(t, text(worker, "template", "spec", "terminationGracePeriodSeconds")+"s")
	if grace <= cfg.ShutdownTimeout.Std() {
		t.Errorf("a worker is killed after %s, with a shutdown_timeout of %s", grace, cfg.ShutdownTimeout)
	}
	if replicas, _ := worker["replicas"].(uint64); replicas < 2 {
		t.Errorf("%d workers: nobody stands by", replicas)
	}
	_, port, _ := net.SplitHostPort(string(cfg.HTTP.Listen))
	if got := text(worker, "template", "metadata", "annotations", "prometheus.io/port"); got != port {
		t.Errorf("Prometheus is sent to port %s, the worker listens on %s", got, port)
	}
	labels := object(worker, "template", "metadata", "labels")
	for _, selector := range []map[string]any{
		object(objects["PodDisruptionBudget/weir-worker"], "spec", "selector", "matchLabels"),
		object(objects["PodMonitor/weir-worker"], "spec", "selector", "matchLabels"),
	} {
		if fmt.Sprint(selector) != fmt.Sprint(labels) {
			t.Errorf("%v selects no pods of %v", selector, labels)
		}
	}
	if got := text(objects["PodMonitor/weir-worker"], "spec", "podMetricsEndpoints", 0, "port"); got != "metrics" {
		t.Errorf("the PodMonitor looks at port %q", got)
	}
}

var versions = map[string]string{
	"Namespace": "v1", "Secret": "v1", "Service": "v1", "Deployment": "apps/v1", "Job": "batch/v1",
	"PodDisruptionBudget": "policy/v1", "PodMonitor": "monitoring.coreos.com/v1",
}

// workload looks at a Deployment and its Service: whether they select each other, and whether the port that is probed and served is
// the one that the configuration listens on, reachable from outside of the pod.
func workload(t *testing.T, objects map[string]map[string]any, name, portName, listen, ready string) {
	t.Helper()
	deployment, service := object(objects["Deployment/weir-"+name], "spec"), object(objects["Service/weir-"+name], "spec")
	labels := fmt.Sprint(object(deployment, "template", "metadata", "labels"))
	for _, selector := range []map[string]any{object(deployment, "selector", "matchLabels"), object(service, "selector")} {
		if fmt.Sprint(selector) != labels {
			t.Errorf("%s: %v selects no pods of %s", name, selector, labels)
		}
	}
	pod := object(deployment, "template", "spec")
	confined(t, name, pod)
	container := object(pod, "containers", 0)
	host, port, err := net.SplitHostPort(listen)
	if err != nil || host != "" || text(container, "ports", 0, "containerPort") != port || text(container, "ports", 0, "name") != portName {
		t.Errorf("%s listens on %q, its container has %v", name, listen, container["ports"])
	}
	if got := text(service, "ports", 0, "targetPort"); got != portName {
		t.Errorf("the service of %s leads to port %q", name, got)
	}
	for probe, path := range map[string]string{"livenessProbe": "/healthz", "readinessProbe": ready} {
		if get := object(container, probe, "httpGet"); text(get, "path") != path || text(get, "port") != portName {
			t.Errorf("%s: %s asks %v, want %s of %s", name, probe, get, path, portName)
		}
	}
	if patience := wait(container); patience < 30*time.Second {
		t.Errorf("%s is restarted after %s without an answer", name, patience)
	}
	if text(container, "volumeMounts", 0, "name") != text(pod, "volumes", 0, "name") || text(pod, "volumes", 0, "configMap", "name") != "weir" ||
		text(container, "volumeMounts", 0, "mountPath") != "/etc/weir" || text(container, "volumeMounts", 0, "subPath") != "" {
		t.Errorf("%s: weir.yaml is not where it is looked for, or would never change: %v", name, container["volumeMounts"])
	}
}

// wait is how long a container may be silent before it is restarted.
func wait(container map[string]any) time.Duration {
	period, _ := at(container, "livenessProbe", "periodSeconds").(uint64)
	failures, _ := at(container, "livenessProbe", "failureThreshold").(uint64)
	return time.Duration(cmp.Or(period, 10)*cmp.Or(failures, 3)) * time.Second
}

// confined looks at what the namespace's level "restricted" asks of a pod, and at what it runs.
func confined(t *testing.T, name string, pod map[string]any) {
	t.Helper()
	container := object(pod, "containers", 0)
	security := object(container, "securityContext")
	for _, must := range []struct{ what, is, want string }{
		{"runAsNonRoot", text(pod, "securityContext", "runAsNonRoot"), "true"},
		{"seccompProfile", text(pod, "securityContext", "seccompProfile", "type"), "RuntimeDefault"},
		{"capabilities.drop", text(security, "capabilities", "drop", 0), "ALL"},
		{"readOnlyRootFilesystem", text(security, "readOnlyRootFilesystem"), "true"},
		{"allowPrivilegeEscalation", text(security, "allowPrivilegeEscalation"), "false"},
		{"image", text(container, "image"), "weir"},
	} {
		if must.is != must.want {
			t.Errorf("%s: %s is %q, want %q", name, must.what, must.is, must.want)
		}
	}
	if secret := text(container, "envFrom", 0, "secretRef", "name"); secret != "weir" && secret != "weir-owner" {
		t.Errorf("%s takes its environment from %q", name, secret)
	}
	if text(container, "resources", "limits", "memory") == "" || text(container, "resources", "requests", "memory") == "" {
		t.Errorf("%s has no bound for its memory", name)
	}
	command := "/usr/local/bin/worker" // the image's own
	if own := words(container, "command"); len(own) > 0 {
		command = own[0]
	}
	if filepath.Dir(command) != "/usr/local/bin" || !slices.Contains(programs, filepath.Base(command)) {
		t.Errorf("%s runs %s", name, command)
	}
}
