package monitoring

import (
	"context"
	"errors"
	"net/http/httptest"
	"time"

	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// request counts one request.
func request(ctx context.Context, method, path string, status int) {
	_, end := telemetry.Begin(httptest.NewRequestWithContext(ctx, method, path, nil), false)
	end(status)
}

func publish(ctx context.Context, err error) {
	_, end := telemetry.Publishing(ctx, "rabbitmq", nil)
	end(err)
}

var errRefused = errors.New("connection refused")

func swept(ctx context.Context) {
	request(ctx, "POST", "/", 200)
	for _, kind := range []telemetry.SweptKind{telemetry.SweptPublished, telemetry.SweptFinished, telemetry.SweptDiscarded,
		telemetry.SweptDeleted, telemetry.SweptClaim, telemetry.SweptFailed} {
		telemetry.Swept(ctx, kind, 2)
	}
	publish(ctx, nil)
	telemetry.Queues(ctx, 3, 0)
	telemetry.Uncataloged(ctx, 1, 130)
}

func signedIn(ctx context.Context) {
	request(ctx, "POST", "/login", 200)
	telemetry.HashWait(ctx, 300*time.Millisecond)
	telemetry.Login(ctx, telemetry.LoginSuccess)
	request(ctx, "POST", "/login", 401)
	telemetry.HashWait(ctx, 300*time.Millisecond)
	telemetry.Login(ctx, telemetry.LoginRefused)
	request(ctx, "POST", "/login", 429)
	telemetry.Login(ctx, telemetry.LoginLocked)
}

func uploaded(ctx context.Context) {
	request(ctx, "POST", "/upload", 202)
	telemetry.Upload(ctx, telemetry.HTTPStored, 1000, 700*time.Millisecond)
	publish(ctx, nil)
	request(ctx, "PATCH", "/upload/tus/1", 204)
	telemetry.Upload(ctx, telemetry.TusStored, 5000, 700*time.Millisecond)
	publish(ctx, nil)
}

func recorded(ctx context.Context) {
	request(ctx, "POST", "/", 204)
	telemetry.Record(ctx, telemetry.RecordCatalogued)
	telemetry.RecordDelay(ctx, 400*time.Millisecond)
}

func validated(ctx context.Context) {
	request(ctx, "GET", "/validate", 200)
	telemetry.Validation(ctx, 200, telemetry.ValidationGood)
	request(ctx, "GET", "/validate", 401)
	telemetry.Validation(ctx, 401, telemetry.ValidationExpired)
}

func listed(ctx context.Context) {
	request(ctx, "GET", "/files", 200)
	request(ctx, "GET", "/files/1/content", 200)
}

// in returns the name of a series of another exporter about the namespace of Strongroom. labels has further labels.
func in(name, labels string) string { return name + `{namespace="strongroom",` + labels + `}` }

// usual starts the traffic of a small site, and sets the metrics of the other exporters. Each function handles a few
// requests, and then is idle until Knative deletes its pod.
func (w *world) usual(total time.Duration) {
	for function, usual := range map[string]struct {
		interval time.Duration
		work     func(context.Context)
	}{
		"sweep": {5 * time.Minute, swept}, "login": {7 * time.Minute, signedIn}, "upload": {8 * time.Minute, uploaded},
		"record": {8 * time.Minute, recorded}, "validate": {9 * time.Minute, validated}, "files": {27 * time.Minute, listed},
	} {
		w.every(usual.interval, total, func() { w.brief(function, usual.work) })
	}
	// The gateway is never idle. Prometheus cannot scrape it for three minutes, and one connection is cut.
	gateway := w.begin("gateway", w.now.Add(2*total))
	w.every(20*time.Second, total, func() {
		gateway.do(func(ctx context.Context) { request(ctx, "GET", "/files", 200) })
	})
	w.after(10*time.Minute, func() {
		gateway.do(func(ctx context.Context) { request(ctx, "GET", "/files/1/content", 0) })
	})
	w.after(20*time.Minute, func() { gateway.silent = true })
	w.after(23*time.Minute, func() { gateway.silent = false })

	// The activator waits for a pod for each fifth request.
	const activator = `http_server_request_duration_seconds_bucket{k8s_namespace_name="strongroom",kn_service_name="login",`
	w.every(time.Minute, total, func() {
		w.outside[activator+`le="1.0"}`] += 4
		w.outside[activator+`le="2.5"}`] += 5
		w.outside[activator+`le="+Inf"}`] += 5
	})

	now := float64(w.start.Unix())
	for series, v := range map[string]float64{
		in("rabbitmq_detailed_queue_messages", `queue="strongroom.files"`):                                       3,
		in("rabbitmq_detailed_queue_messages", `queue="strongroom.files.dead"`):                                  0,
		in("rabbitmq_detailed_queue_consumers", `queue="strongroom.files"`):                                      1,
		in("rabbitmq_alarms_memory_used_watermark", ""):                                                          0,
		in("rabbitmq_alarms_free_disk_space_watermark", ""):                                                      0,
		in("kube_job_failed", `job_name="backup-1",condition="true"`):                                            0,
		in("kube_cronjob_created", `cronjob="backup"`):                                                           now - 90*24*3600,
		in("kube_cronjob_status_last_successful_time", `cronjob="backup"`):                                       now - 3*3600,
		in("kubelet_volume_stats_used_bytes", `persistentvolumeclaim="data-mysql-0"`):                            5e9,
		in("kubelet_volume_stats_capacity_bytes", `persistentvolumeclaim="data-mysql-0"`):                        10e9,
		in("certmanager_certificate_expiration_timestamp_seconds", `name="files"`):                               now + 60*24*3600,
		in("kube_pod_container_status_waiting_reason", `pod="mysql-0",reason="ContainerCreating"`):               0,
		`kube_pod_container_status_waiting_reason{namespace="another",pod="broken-0",reason="CrashLoopBackOff"}`: 1,
		`kubelet_volume_stats_used_bytes{namespace="another",persistentvolumeclaim="full"}`:                      10e9,
		`kubelet_volume_stats_capacity_bytes{namespace="another",persistentvolumeclaim="full"}`:                  10e9,
	} {
		w.outside[series] = v
	}
}
