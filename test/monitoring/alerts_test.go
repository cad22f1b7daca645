package monitoring

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

const (
	// total is how long TestAlerts simulates each fault.
	total = time.Hour
	// normal is how long other exporters report normal values before a fault.
	normal = 15 * time.Minute
)

// set returns a fault: a metric of another exporter gets the value v.
func set(series string, v float64) func(*world) {
	return func(w *world) { w.after(normal, func() { w.outside[series] = v }) }
}

// ago returns the Unix time of the given duration before the fault.
func ago(w *world, d time.Duration) float64 { return float64(w.start.Add(normal - d).Unix()) }

// repeat returns a fault: one pod does the work at regular intervals.
func repeat(function string, interval time.Duration, work func(context.Context)) func(*world) {
	return func(w *world) {
		p := w.begin(function, w.now.Add(2*total))
		w.every(interval, total, func() { p.do(work) })
	}
}

// onPods returns a fault: the function is idle between two runs of the work, so that each run is in a new pod.
func onPods(function string, interval time.Duration, work func(context.Context)) func(*world) {
	return func(w *world) { w.every(interval, total, func() { w.brief(function, work) }) }
}

// slow returns a fault: a pod handles one request a minute, and each request takes longer than the given bucket.
func slow(labels, bucket string) func(*world) {
	return func(w *world) {
		name := func(le string) string {
			return in("strongroom_http_request_duration_seconds_bucket", fmt.Sprintf(`%s,le=%q,pod="slow"`, labels, le))
		}
		w.outside[name(bucket)], w.outside[name("+Inf")] = 0, 0
		w.every(time.Minute, total, func() { w.outside[name("+Inf")]++ })
	}
}

// faults has a fault for each alert, and for each condition of an alert. The usual traffic of a small site continues
// during the fault.
var faults = []struct {
	name  string
	fault func(*world)
	// fires has all alerts that fire.
	fires []string
}{
	{"no fault", func(*world) {}, nil},
	{"login responds with 503 to 1 of 5 requests, each in a new pod",
		onPods("login", 2*time.Minute, func(ctx context.Context) {
			for range 4 {
				request(ctx, "POST", "/login", 200)
			}
			request(ctx, "POST", "/login", 503)
		}), []string{"StrongroomErrorBudgetBurnsFast", "StrongroomErrorBudgetBurnsSlowly"}},
	{"upload cuts 1 of 10 connections",
		repeat("upload", time.Minute, func(ctx context.Context) {
			for range 9 {
				request(ctx, "POST", "/upload", 202)
			}
			request(ctx, "POST", "/upload", 0)
		}), []string{"StrongroomErrorBudgetBurnsFast", "StrongroomErrorBudgetBurnsSlowly"}},
	{"files responds with 500 to 1 of 300 requests",
		repeat("files", time.Minute, func() func(context.Context) {
			n := 0
			return func(ctx context.Context) {
				for range 240 {
					status := 200
					if n++; n%300 == 0 {
						status = 500
					}
					request(ctx, "GET", "/files/1", status)
				}
			}
		}()), []string{"StrongroomErrorBudgetBurnsSlowly"}},
	{"half of the sign-ins take more than 2.5 s",
		slow(`function="login",route="/login"`, "2.5"),
		[]string{"StrongroomErrorBudgetBurnsFast", "StrongroomErrorBudgetBurnsSlowly"}},
	{"lists of files take more than 1 s",
		slow(`function="files",route="/files"`, "1.0"),
		[]string{"StrongroomErrorBudgetBurnsFast", "StrongroomErrorBudgetBurnsSlowly"}},
	{"downloads take more than 1 s",
		slow(`function="files",route="/files/*/content"`, "1.0"), nil},
	{"catalog entries are more than 60 s late",
		repeat("record", time.Minute, func(ctx context.Context) { telemetry.RecordDelay(ctx, 2*time.Minute) }),
		[]string{"StrongroomErrorBudgetBurnsFast", "StrongroomErrorBudgetBurnsSlowly"}},
	{"9 of 2,000 requests fail, which are too few",
		func(w *world) {
			p := w.begin("files", w.now.Add(2*total))
			w.after(normal, func() {
				p.do(func(ctx context.Context) {
					for n := range 2000 {
						status := 200
						if n < 9 {
							status = 500
						}
						request(ctx, "GET", "/files", status)
					}
				})
			})
		}, nil},
	{"a file has no catalog entry for 20 minutes",
		repeat("sweep", 5*time.Minute, func(ctx context.Context) { telemetry.Uncataloged(ctx, 1, 1200) }),
		[]string{"StrongroomFilesWithoutEntry"}},
	{"sweep does not run", func(w *world) {
		w.after(normal, func() {
			for _, p := range w.pods {
				if p.function == "sweep" {
					p.ends = w.now
				}
			}
			for at, runs := range w.later { // no later pods start
				if at.After(w.now) {
					w.later[at] = runs[:0]
				}
			}
		})
	}, []string{"StrongroomSweepDoesNotRun"}},
	{"dead letters, according to sweep",
		repeat("sweep", 5*time.Minute, func(ctx context.Context) { telemetry.Queues(ctx, 0, 2) }),
		[]string{"StrongroomDeadLetters"}},
	{"dead letters, according to RabbitMQ",
		set(in("rabbitmq_detailed_queue_messages", `queue="strongroom.files.dead"`), 2),
		[]string{"StrongroomDeadLetters"}},
	{"a long queue, according to sweep",
		repeat("sweep", 5*time.Minute, func(ctx context.Context) { telemetry.Queues(ctx, 1001, 0) }),
		[]string{"StrongroomQueueGrows"}},
	{"a long queue, according to RabbitMQ",
		set(in("rabbitmq_detailed_queue_messages", `queue="strongroom.files"`), 1001),
		[]string{"StrongroomQueueGrows"}},
	{"a queue without a consumer",
		set(in("rabbitmq_detailed_queue_consumers", `queue="strongroom.files"`), 0),
		[]string{"StrongroomQueueHasNoConsumer"}},
	{"RabbitMQ has little memory",
		set(in("rabbitmq_alarms_memory_used_watermark", ""), 1),
		[]string{"StrongroomRabbitMQAlarm"}},
	{"RabbitMQ has little disk space",
		set(in("rabbitmq_alarms_free_disk_space_watermark", ""), 1),
		[]string{"StrongroomRabbitMQAlarm"}},
	{"RabbitMQ confirms no event, and each upload is in a new pod",
		onPods("upload", 2*time.Minute, func(ctx context.Context) { publish(ctx, errRefused) }),
		[]string{"StrongroomPublishesFail"}},
	{"1 of 20 events is not confirmed",
		repeat("upload", time.Minute, func(ctx context.Context) {
			publish(ctx, errRefused)
			for range 19 {
				publish(ctx, nil)
			}
		}), nil},
	{"passwords wait for 6 s, and each burst is in a new pod",
		onPods("login", 3*time.Minute, func(ctx context.Context) {
			for range 20 {
				telemetry.HashWait(ctx, 6*time.Second)
			}
		}), []string{"StrongroomSignInsWait"}},
	{"somebody guesses passwords, and each burst is in a new pod",
		onPods("login", 5*time.Minute, func(ctx context.Context) {
			for range 50 {
				telemetry.Login(ctx, telemetry.LoginLocked)
			}
		}), []string{"StrongroomLockouts"}},
	{"a new revision crashes",
		set(in("kube_pod_container_status_waiting_reason", `pod="login-00002-deployment-1",reason="CrashLoopBackOff"`), 1),
		[]string{"StrongroomContainerCannotStart"}},
	{"an image does not exist",
		set(in("kube_pod_container_status_waiting_reason", `pod="login-00002-deployment-1",reason="ImagePullBackOff"`), 1),
		[]string{"StrongroomContainerCannotStart"}},
	{"a Secret of a new revision does not exist",
		set(in("kube_pod_container_status_waiting_reason", `pod="login-00002-deployment-1",reason="ContainerCreating"`), 1),
		[]string{"StrongroomContainerCannotStart"}},
	{"setup fails, and its Job is deleted after a minute", func(w *world) {
		series := in("kube_job_failed", `job_name="setup",condition="true"`)
		w.after(normal, func() { w.outside[series] = 1 })
		w.after(normal+time.Minute, func() { delete(w.outside, series) })
	}, []string{"StrongroomJobFailed"}},
	{"the last backup is 27 hours old", func(w *world) {
		set(in("kube_cronjob_status_last_successful_time", `cronjob="backup"`), ago(w, 27*time.Hour))(w)
	}, []string{"StrongroomBackupOverdue"}},
	{"no backup has ever succeeded", func(w *world) {
		delete(w.outside, in("kube_cronjob_status_last_successful_time", `cronjob="backup"`))
	}, []string{"StrongroomBackupOverdue"}},
	{"there is no CronJob", func(w *world) {
		delete(w.outside, in("kube_cronjob_status_last_successful_time", `cronjob="backup"`))
		delete(w.outside, in("kube_cronjob_created", `cronjob="backup"`))
	}, nil},
	{"a volume is 85 % full",
		set(in("kubelet_volume_stats_used_bytes", `persistentvolumeclaim="data-mysql-0"`), 8.5e9),
		[]string{"StrongroomVolumeFull"}},
	{"a certificate expires in 13 days", func(w *world) {
		set(`certmanager_certificate_expiration_timestamp_seconds{exported_namespace="strongroom",name="api"}`, ago(w, -13*24*time.Hour))(w)
	}, []string{"StrongroomCertificateExpires"}},
}

// TestAlerts checks that each alert fires during its faults, and that no other alert fires.
func TestAlerts(t *testing.T) {
	tested := map[string]bool{}
	for _, test := range faults {
		for _, alert := range test.fires {
			tested[alert] = true
		}
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.usual(total)
			test.fault(w)
			w.pass(total)
			if got := slices.Sorted(maps.Keys(w.fired)); !slices.Equal(got, test.fires) {
				t.Errorf("got the alerts %q, want %q", got, test.fires)
			}
		})
	}
	for _, rule := range group(t, "alerts.yaml").Rules {
		if !tested[rule.Alert] {
			t.Errorf("%s: no fault makes the alert fire", rule.Alert)
		}
	}
}

// TestRunbooks checks that each alert has a runbook with the same four sections, and that each runbook has an alert.
func TestRunbooks(t *testing.T) {
	const pages = "../../docs/runbooks/"
	alerts := map[string]bool{}
	for _, rule := range group(t, "alerts.yaml").Rules {
		alerts[rule.Alert+".md"] = true
		if severity := rule.Labels["severity"]; severity != "critical" && severity != "warning" {
			t.Errorf("%s: got the severity %q, want critical or warning", rule.Alert, severity)
		}
		want := "https://github.com/strongroom-dev/strongroom/blob/main/docs/runbooks/" + rule.Alert + ".md"
		if got := rule.Annotations["runbook_url"]; got != want || rule.Annotations["summary"] == "" {
			t.Errorf("%s: got the annotations %q, want a summary and the runbook %q", rule.Alert, rule.Annotations, want)
		}
		text, err := os.ReadFile(pages + rule.Alert + ".md")
		if err != nil {
			t.Errorf("%s: %v", rule.Alert, err)
			continue
		}
		headings := regexp.MustCompile(`(?m)^#.*`).FindAllString(string(text), -1)
		sections := []string{"# " + rule.Alert, "## Meaning", "## Check", "## Action", "## End"}
		if !slices.Equal(headings, sections) {
			t.Errorf("%s: got the headings %q, want %q", rule.Alert, headings, sections)
		}
	}
	found, err := filepath.Glob(pages + "*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range found {
		if name := filepath.Base(page); name != "README.md" && !alerts[name] {
			t.Errorf("docs/runbooks/%s: there is no alert %s", name, strings.TrimSuffix(name, ".md"))
		}
	}
}
