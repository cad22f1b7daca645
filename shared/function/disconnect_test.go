package function

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// TestCodesOfIncompleteResponses checks that the metrics distinguish a client that disconnects from a function that
// fails.
func TestCodesOfIncompleteResponses(t *testing.T) {
	cut := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	unavailable := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	for name, test := range map[string]struct {
		disconnects bool
		timesOut    bool
		then        http.HandlerFunc
		want        string
	}{
		"the function cuts the connection":                   {false, false, cut, "0"},
		"the function fails":                                 {false, false, unavailable, "503"},
		"the request times out":                              {false, true, unavailable, "503"},
		"the client disconnects, and the response is cut":    {true, false, cut, "499"},
		"the client disconnects, and the response is a 503":  {true, false, unavailable, "499"},
		"the client disconnects after a successful response": {true, false, func(http.ResponseWriter, *http.Request) {}, "200"},
	} {
		t.Run(name, func(t *testing.T) {
			told, err := telemetry.New(t.Context(), telemetry.Settings{Function: "files", Metrics: true})
			if err != nil {
				t.Fatal(err)
			}
			ctx, disconnect := context.WithTimeout(t.Context(), 10*time.Second)
			defer disconnect()
			ended := make(chan struct{})
			timeout := time.Minute
			if test.timesOut {
				timeout = 100 * time.Millisecond
			}
			wrapped := Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if test.disconnects {
					disconnect()
				}
				if test.disconnects || test.timesOut {
					<-r.Context().Done()
				}
				test.then(w, r)
			}), timeout)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				wrapped.ServeHTTP(w, r)
			}))
			server.Config.BaseContext = func(net.Listener) context.Context { return told.In(context.Background()) }
			server.Config.ReadTimeout = timeout + readGrace
			server.Start()
			defer server.Close()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/files", nil)
			if err != nil {
				t.Fatal(err)
			}
			if response, err := server.Client().Do(request); err == nil {
				_ = response.Body.Close()
			}
			<-ended
			w := httptest.NewRecorder()
			told.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
			want := `strongroom_http_requests_total{code="` + test.want + `",function="files",method="GET",route="/files"} 1`
			if !strings.Contains(w.Body.String(), want+"\n") {
				t.Errorf("got metrics\n%s\nwant the line %s", w.Body, want)
			}
		})
	}
}
