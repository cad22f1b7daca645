package events_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
)

// The publisher sends the event that announces a file to an HTTP sink. The sink decodes the event as the record
// function does.
func ExampleNewPublisher() {
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		e, f, err := events.Decode(r.Header, body)
		fmt.Println(e.Type(), f.Name, f.Size, err)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer sink.Close()
	publisher, err := events.NewPublisher(sink.URL)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	e, err := events.NewFileStored(ctx, file.Info{ID: "0190a5c2-7b1e-7c3d-9e4f-0123456789ab", Owner: "ada", Name: "a.txt",
		Size: 5, SHA256: strings.Repeat("0a", 32), ContentType: "text/plain", StoredAt: time.Unix(1_800_000_000, 0)})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(publisher.Publish(ctx, e), publisher.Close())
	// Output:
	// dev.strongroom.file.stored.v1 a.txt 5 <nil>
	// <nil> <nil>
}
