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

// connect returns a database of s. When the test ends, connect closes the connection and checks that s has had no
// error.
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

// TestGridFS proves that the GridFS writer of the driver can upload a file to the server, and that the server passes
// the inserted documents to its callback, if there is one.
func TestGridFS(t *testing.T) {
	want := make([]byte, 20<<20+5)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(want) // never returns an error
	var mu sync.Mutex
	chunks := map[int32][]byte{}
	var lengths []int64
	for name, inserted := range map[string]func(string, bson.Raw){
		"with a callback": func(collection string, document bson.Raw) {
			mu.Lock()
			defer mu.Unlock()
			switch collection {
			case "fs.chunks":
				_, data := document.Lookup("data").Binary()
				chunks[document.Lookup("n").Int32()] = data
			case "fs.files":
				lengths = append(lengths, document.Lookup("length").Int64())
			default:
				t.Errorf("got an insert into %s, want only inserts into fs.chunks and fs.files", collection)
			}
		},
		"without a callback": nil,
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
		t.Errorf("got %d bytes in %d chunks, equal to the file %t, want %d equal bytes in 21 chunks",
			len(got), len(chunks), bytes.Equal(got, want), len(want))
	}
	if len(lengths) != 1 || lengths[0] != int64(len(want)) {
		t.Errorf("got files of the lengths %d, want one file of length %d", lengths, len(want))
	}
}

// TestCommands proves that the server responds to the supported commands as an empty database would, and refuses other
// commands.
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
		t.Errorf("find: got error %v, want %v", err, mongo.ErrNoDocuments)
	}
	if n, err := c.CountDocuments(ctx, bson.D{}); err != nil || n != 0 {
		t.Errorf("count: got %d and error %v, want 0", n, err)
	}
	if r, err := c.InsertMany(ctx, []any{bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "_id", Value: 2}}}); err != nil || len(r.InsertedIDs) != 2 {
		t.Errorf("insert: got %v and error %v, want 2 IDs", r, err)
	}
	if r, err := c.DeleteOne(ctx, bson.D{{Key: "_id", Value: 1}}); err != nil || r.DeletedCount != 1 {
		t.Errorf("delete: got %v and error %v, want 1 deleted document", r, err)
	}
	if _, err := c.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "a", Value: 1}}}); err != nil {
		t.Error(err)
	}
	var refused mongo.CommandError
	if _, err := c.UpdateOne(ctx, bson.D{}, bson.D{{Key: "$set", Value: bson.D{{Key: "a", Value: 1}}}}); !errors.As(err, &refused) || refused.Code != 59 {
		t.Errorf("update, which is not supported: got error %v, want code 59", err)
	}
}

// TestHold proves that after Hold, the server does not respond to inserts into fs.chunks until the returned function is
// called. Other inserts are not affected.
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
		t.Errorf("insert into others after Hold: %v", err)
	}
	if err := insert("fs.chunks", 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("insert into fs.chunks after Hold: got error %v, want %v", err, context.DeadlineExceeded)
	}
	release()
	if err := insert("fs.chunks", long); err != nil {
		t.Errorf("insert into fs.chunks after the release: %v", err)
	}
}

// TestIntercept proves that a test can replace the reply to a command.
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

// TestMalformed proves that the server closes the connection after a malformed message, and that Close returns the
// reason.
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
		"message too short":                {message(opMsg, -1), "invalid message length 15"},
		"message too long":                 {message(opMsg, maxMessage), "invalid message length 48000016"},
		"unsupported opcode":               {message(2012, 0), "unsupported opcode 2012"},
		"checksum":                         {message(opMsg, 4, 1, 0, 0, 0), "unsupported message flags 0x1"},
		"no command":                       {message(opMsg, 4, flags...), "the message has no command"},
		"unsupported section":              {message(opMsg, 5, 0, 0, 0, 0, 2), "unsupported section kind 2"},
		"document longer than its message": {message(opMsg, len(command)-1, command...), "exceeds the rest of the message"},
		"empty command":                    {message(opMsg, 10, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0), "malformed command"},
		"sequence before the command":      {message(opMsg, 9, 0, 0, 0, 0, 1, 4, 0, 0, 0), "after the command \"\""},
		"sequence longer than its message": {message(opMsg, len(command)+7, append(command, 1, 9, 0, 0, 0, 'd', 0)...), "2 bytes are left"},
		"document longer than its sequence": {message(opMsg, len(command)+20, append(command,
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
			// ReadAll can return an error: the kernel resets a connection that is closed while it has unread bytes.
			if answer, _ := io.ReadAll(conn); len(answer) > 0 {
				t.Errorf("got the reply %q, want none", answer)
			}
			if err := s.Close(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Close: got error %v, want an error with %q", err, c.want)
			}
		})
	}
	// A well-formed message is not an error. A client that closes the connection in the middle of a message is not an
	// error either.
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
		t.Errorf("well-formed message: got the reply %q and error %v, want a reply with ok", answer, err)
	}
	_ = conn.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
