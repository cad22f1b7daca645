package nullmongo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// connect returns the database of s.
func connect(t *testing.T, s *Server) *mongo.Database {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(s.URI()).SetServerSelectionTimeout(5 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Disconnect(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return client.Database("strongroom")
}

// TestGridFS hands in a file with the driver's own GridFS, once to a server that shows what it gets and once to one that
// does not look.
func TestGridFS(t *testing.T) {
	want := make([]byte, 20<<20+5)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(want) // never fails
	var mu sync.Mutex
	chunks := map[int32][]byte{}
	var lengths []int64
	for name, inserted := range map[string]func(string, bson.Raw){
		"shown": func(collection string, document bson.Raw) {
			mu.Lock()
			defer mu.Unlock()
			switch collection {
			case "fs.chunks":
				_, data := document.Lookup("data").Binary()
				chunks[document.Lookup("n").Int32()] = data
			case "fs.files":
				lengths = append(lengths, document.Lookup("length").Int64())
			default:
				t.Errorf("a document in %s", collection)
			}
		},
		"not looked at": nil,
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Start(inserted)
			if err != nil {
				t.Fatal(err)
			}
			bucket := connect(t, s).GridFSBucket(options.GridFSBucket().SetChunkSizeBytes(1 << 20))
			if _, err := bucket.UploadFromStream(t.Context(), "a", bytes.NewReader(want)); err != nil {
				t.Fatal(err)
			}
		})
	}
	var got []byte
	for n := range int32(len(chunks)) {
		got = append(got, chunks[n]...)
	}
	if !bytes.Equal(got, want) || len(chunks) != 21 {
		t.Errorf("got %d bytes in %d chunks that are equal: %t, want %d in 21", len(got), len(chunks), bytes.Equal(got, want), len(want))
	}
	if len(lengths) != 1 || lengths[0] != int64(len(want)) {
		t.Errorf("got files of lengths %d, want one of %d", lengths, len(want))
	}
}

func TestCommands(t *testing.T) {
	s, err := Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	db := connect(t, s)
	ctx := t.Context()
	c := db.Collection("c")
	if err := db.Client().Ping(ctx, nil); err != nil {
		t.Error(err)
	}
	if err := c.FindOne(ctx, bson.D{}).Err(); !errors.Is(err, mongo.ErrNoDocuments) {
		t.Errorf("find: got %v, want %v", err, mongo.ErrNoDocuments)
	}
	if n, err := c.CountDocuments(ctx, bson.D{}); err != nil || n != 0 {
		t.Errorf("count: got %d and %v", n, err)
	}
	if r, err := c.InsertMany(ctx, []any{bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "_id", Value: 2}}}); err != nil || len(r.InsertedIDs) != 2 {
		t.Errorf("insert: got %v and %v", r, err)
	}
	if r, err := c.DeleteOne(ctx, bson.D{{Key: "_id", Value: 1}}); err != nil || r.DeletedCount != 1 {
		t.Errorf("delete: got %v and %v", r, err)
	}
	if _, err := c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "a", Value: 1}}}); err != nil {
		t.Error(err)
	}
	var refused mongo.CommandError
	if _, err := c.UpdateOne(ctx, bson.D{}, bson.D{{Key: "$set", Value: bson.D{{Key: "a", Value: 1}}}}); !errors.As(err, &refused) || refused.Code != 59 {
		t.Errorf("update, which it does not know: got %v, want error 59", err)
	}
}

func TestHold(t *testing.T) {
	s, err := Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	db := connect(t, s)
	insert := func(name string, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, err := db.Collection(name).InsertOne(ctx, bson.D{})
		return err
	}
	const long = time.Minute
	release := s.Hold()
	if err := insert("others", long); err != nil {
		t.Errorf("others: %v", err)
	}
	if err := insert("fs.chunks", 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("chunks, held: got %v, want %v", err, context.DeadlineExceeded)
	}
	release()
	if err := insert("fs.chunks", long); err != nil {
		t.Errorf("chunks, released: %v", err)
	}
}

func TestIntercept(t *testing.T) {
	s, err := Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	db := connect(t, s)
	s.Intercept(func(command, collection string) bson.D {
		if command != "insert" || collection != "refused" {
			return nil
		}
		return bson.D{{Key: "ok", Value: float64(0)}, {Key: "code", Value: int32(13)}, {Key: "errmsg", Value: "not authorized"}}
	})
	for name, want := range map[string]int{"refused": 13, "others": 0} {
		_, err := db.Collection(name).InsertOne(t.Context(), bson.D{})
		var got mongo.CommandError
		if errors.As(err, &got); int(got.Code) != want || (err == nil) != (want == 0) {
			t.Errorf("insert into %s: got error %v, want code %d", name, err, want)
		}
	}
}

// TestMalformed sends what is no message. The server closes the connection and says why in the end.
func TestMalformed(t *testing.T) {
	message := func(code uint32, length int, body ...byte) []byte {
		b := make([]byte, headerSize, headerSize+len(body))
		binary.LittleEndian.PutUint32(b, uint32(headerSize+length))
		binary.LittleEndian.PutUint32(b[12:], code)
		return append(b, body...)
	}
	flags, ping := []byte{0, 0, 0, 0}, []byte("\x00\x0f\x00\x00\x00\x10ping\x00\x01\x00\x00\x00\x00")
	command := append(flags, ping...)
	for name, c := range map[string]struct {
		sent []byte
		want string
	}{
		"too short":                     {message(opMsg, -1), "a message of 15 bytes"},
		"too long":                      {message(opMsg, maxMessage), "a message of 48000016 bytes"},
		"another code":                  {message(2012, 0), "a message with the code 2012"},
		"checksum":                      {message(opMsg, 4, 1, 0, 0, 0), "the flags 0x1"},
		"no command":                    {message(opMsg, 4, flags...), "without a command"},
		"another section":               {message(opMsg, 5, 0, 0, 0, 0, 2), "a section of kind 2"},
		"a document longer than it all": {message(opMsg, len(command)-1, command...), "longer than its message"},
		"a command of nothing":          {message(opMsg, 10, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0), "not well-formed"},
		"a sequence first":              {message(opMsg, 9, 0, 0, 0, 0, 1, 4, 0, 0, 0), "after the command \"\""},
		"a sequence longer than it all": {message(opMsg, len(command)+7, append(command, 1, 9, 0, 0, 0, 'd', 0)...), "with 2 bytes left"},
		"a document longer than its sequence": {message(opMsg, len(command)+20, append(command,
			1, 10, 0, 0, 0, 'd', 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)...), "longer than its sequence"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Start(nil)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", s.listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(c.sent); err != nil {
				t.Fatal(err)
			}
			// Closed with some of it unread, it is reset.
			if answer, _ := io.ReadAll(conn); len(answer) > 0 {
				t.Errorf("got an answer: %q", answer)
			}
			if err := s.Close(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	// One that is well-formed, and a client that goes away in the middle, are no errors.
	s, err := Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(message(opMsg, len(command), command...), 1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || !bytes.Contains(answer, []byte("ok\x00")) {
		t.Errorf("got %q and %v, want ok", answer, err)
	}
	_ = conn.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
