package content_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/content/contenttest"
	"github.com/strongroom-dev/strongroom/shared/events"
	"github.com/strongroom-dev/strongroom/shared/file"
)

// Put stores a file together with the event that announces the file.
func ExampleStore_Put() {
	ctx, store := context.Background(), contenttest.New() // a function calls content.Open(uri) instead
	event := func(f *content.File) ([]byte, error) { return events.Encode(ctx, f.Info) }
	f, err := store.Put(ctx, content.File{Info: file.Info{Owner: "ada", Name: "a.txt", ContentType: "text/plain", Size: -1}}, strings.NewReader("hello"), event)
	if err != nil {
		log.Fatal(err)
	}
	e, err := events.Parse(f.Event)
	if err != nil {
		log.Fatal(err)
	}
	// Publish the event here. If the function is killed first, the sweep function publishes the event.
	b, err := io.ReadAll(store.Reader(ctx, f))
	fmt.Printf("%s: %s %v, %s\n", f.Name, b, err, e.Type())
	// Output: a.txt: hello <nil>, dev.strongroom.file.stored.v1
}

// Append adds bytes to a resumable upload. Finish turns the complete upload into a file.
func ExampleStore_Append() {
	ctx, store := context.Background(), contenttest.New()
	u, err := store.Create(ctx, content.Upload{Owner: "ada", Name: "a.txt", Length: 11, ExpiresAt: time.Now().Add(time.Hour)})
	if err != nil {
		log.Fatal(err)
	}
	for _, part := range []string{"hello ", "world"} {
		if u, err = store.Find(ctx, u.ID); err != nil { // another request would get the offset in the same way
			log.Fatal(err)
		}
		n, err := store.Append(ctx, u.ID, u.Offset, strings.NewReader(part))
		fmt.Println("offset", u.Offset, "added", n, err)
	}
	f, err := store.Finish(ctx, u.ID, func(f *content.File) ([]byte, error) { return events.Encode(ctx, f.Info) })
	fmt.Println(f.Name, f.Size, f.ContentType, err)
	// Output:
	// offset 0 added 6 <nil>
	// offset 6 added 5 <nil>
	// a.txt 11 text/plain; charset=utf-8 <nil>
}
