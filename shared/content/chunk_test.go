package content

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/google/uuid"
	"go.mongodb.org/mongo-driver/v2/bson"
)

// TestLentChunk encodes chunks as the driver does. It overwrites the buffer of a chunk as soon as the encoder
// releases it.
func TestLentChunk(t *testing.T) {
	file := uuid.Must(uuid.NewV7())
	var b buffer
	for n, length := range map[int32]int{0: 1, 1: 5, 1<<24 - 1: chunkSize} {
		want := make([]byte, length)
		for i := range want {
			want[i] = byte(i + length)
		}
		copy(b[:], want)
		var raw bytes.Buffer
		encoder := bson.NewEncoder(bson.NewDocumentWriter(&raw))
		encoder.SetRegistry(lending())
		lent := &lentChunk{newChunk(file, n, b[:length]), func() { clear(b[:]) }}
		if err := encoder.Encode(lent); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b[:length], make([]byte, length)) {
			t.Errorf("chunk %d: the encoder did not release the buffer", n)
		}
		if err := bson.Raw(raw.Bytes()).Validate(); err != nil {
			t.Fatal(err)
		}
		var got chunkDocument
		if err := bson.Unmarshal(raw.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.ID != chunkID(file, n) || got.FilesID != file.String() || got.N != n || got.Data.Subtype != 0 || !bytes.Equal(got.Data.Data, want) {
			t.Errorf("chunk %d of %d bytes: got a different chunk with _id %v, files_id %v and n %v", n, length, got.ID, got.FilesID, got.N)
		}
		// By now, the buffer could contain another chunk.
		if err := encoder.Encode(lent); err == nil {
			t.Errorf("chunk %d: got no error from the second encoding, want one", n)
		}
	}
}

func TestChunkID(t *testing.T) {
	seen := map[bson.ObjectID]bool{}
	for range 3 {
		file := uuid.Must(uuid.NewV7())
		for _, n := range []int32{0, 1, 255, 256, 65535, 65536, 1<<24 - 1} {
			id := chunkID(file, n)
			if seen[id] {
				t.Errorf("got chunk ID %v twice", id)
			}
			seen[id] = true
		}
	}
}

func TestFill(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		r    io.Reader
		want string
		err  error
	}{
		"more bytes than buf":        {bytes.NewReader([]byte("abcdef")), "abcd", nil},
		"one byte at a time":         {iotest.OneByteReader(bytes.NewReader([]byte("abcdef"))), "abcd", nil},
		"fewer bytes than buf":       {bytes.NewReader([]byte("ab")), "ab", io.EOF},
		"as many bytes as buf":       {bytes.NewReader([]byte("abcd")), "abcd", nil},
		"io.EOF with the last bytes": {iotest.DataErrReader(bytes.NewReader([]byte("abcd"))), "abcd", io.EOF},
		"empty":                      {bytes.NewReader(nil), "", io.EOF},
		"unexpected EOF":             {io.MultiReader(bytes.NewReader([]byte("ab")), iotest.ErrReader(io.ErrUnexpectedEOF)), "ab", io.ErrUnexpectedEOF},
		"other error":                {io.MultiReader(bytes.NewReader([]byte("ab")), iotest.ErrReader(broken)), "ab", broken},
	} {
		buf := make([]byte, 4)
		n, err := fill(c.r, buf)
		if got := string(buf[:n]); got != c.want || err != c.err {
			t.Errorf("%s: got %q and %v, want %q and %v", name, got, err, c.want, c.err)
		}
	}
}
