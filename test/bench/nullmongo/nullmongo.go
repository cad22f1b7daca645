// Package nullmongo provides a MongoDB server that acknowledges inserts and deletes but stores nothing. It supports only
// the commands for a single-request upload. Benchmarks use it to measure uploads without the cost of a real database.
package nullmongo

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// These constants are the opcodes of messages and the flags of OP_MSG. The opcode for compressed messages is not
// needed, because the server does not offer compression.
const (
	opReply = 1
	opQuery = 2004 // legacy format that a client can use for its first message, which is hello
	opMsg   = 2013

	checksumPresent = 1 << 0
	moreToCome      = 1 << 1
	exhaustAllowed  = 1 << 16
)

// These constants are sizes in bytes. The server reports maxMessage and maxDocument in its reply to the hello command.
const (
	maxMessage  = 48_000_000
	maxDocument = 16 << 20
	readBuffer  = 64 << 10
	headerSize  = 16
)

// Server is a running MongoDB server that stores nothing.
type Server struct {
	listener net.Listener
	inserted func(collection string, document bson.Raw)
	hold     sync.RWMutex // locked for writing while the server delays the replies to inserts into fs.chunks
	serving  sync.WaitGroup

	mu          sync.Mutex
	intercept   func(command, collection string) bson.D
	closed      bool
	connections map[net.Conn]struct{}
	err         error
}

// Start starts a server on a free loopback port. If inserted is not nil, the server calls it for each document before
// acknowledging the insert. The callback must be safe for concurrent use and must not keep the document.
func Start(inserted func(collection string, document bson.Raw)) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{listener: listener, inserted: inserted, connections: map[net.Conn]struct{}{}}
	s.serving.Go(s.accept)
	return s, nil
}

// URI returns the server's connection string for the strongroom database.
func (s *Server) URI() string { return "mongodb://" + s.listener.Addr().String() + "/strongroom" }

// Hold delays the replies to all inserts into fs.chunks until the returned function is called.
func (s *Server) Hold() (release func()) {
	s.hold.Lock()
	return s.hold.Unlock
}

// Intercept makes the server call the reply function for each command and send the document that the function returns.
// If the function returns nil, the server responds as usual. The function must be safe for concurrent use.
func (s *Server) Intercept(reply func(command, collection string) bson.D) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = reply
}

// reply returns the response to a command.
func (s *Server) reply(m *message) bson.D {
	s.mu.Lock()
	intercept := s.intercept
	s.mu.Unlock()
	if intercept != nil {
		if own := intercept(m.command, m.name); own != nil {
			return own
		}
	}
	return reply(m.command, m.name, m.documents)
}

// Close stops the server and closes all connections. It returns protocol errors, such as an unsupported message,
// but no network errors, because a client can disconnect at any time.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.connections {
		_ = c.Close()
	}
	s.mu.Unlock()
	err := s.listener.Close()
	s.serving.Wait()
	return errors.Join(err, s.err)
}

// accept accepts connections and serves each of them in its own goroutine.
func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return // the listener is closed
		}
		s.mu.Lock()
		if s.closed {
			_ = c.Close()
		} else {
			s.connections[c] = struct{}{}
			s.serving.Go(func() { s.serve(c) })
		}
		s.mu.Unlock()
	}
}

// serve replies to the messages on a connection until the connection ends.
func (s *Server) serve(c net.Conn) {
	r := bufio.NewReaderSize(c, readBuffer)
	var err error
	for err == nil {
		err = s.answer(r, c)
	}
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.connections, c)
	var network net.Error // Close also causes network errors
	if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.As(err, &network) {
		s.err = errors.Join(s.err, err)
	}
}

// answer reads one message and replies to it.
func (s *Server) answer(r *bufio.Reader, w io.Writer) error {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	length := int64(binary.LittleEndian.Uint32(header[:]))
	request, code := binary.LittleEndian.Uint32(header[4:]), binary.LittleEndian.Uint32(header[12:])
	if length < headerSize || length > maxMessage {
		return fmt.Errorf("invalid message length %d", length)
	}
	m := &message{r: r, left: length - headerSize}
	switch code {
	case opQuery:
		if err := m.query(); err != nil {
			return err
		}
		return m.reply(w, request, opReply, s.reply(m))
	case opMsg:
		flags, err := m.message(s.inserted)
		if err != nil {
			return err
		}
		if m.command == "insert" && m.name == "fs.chunks" {
			s.hold.RLock()
			defer s.hold.RUnlock()
		}
		if flags&moreToCome != 0 { // the client expects no reply
			return nil
		}
		return m.reply(w, request, opMsg, s.reply(m))
	}
	return fmt.Errorf("unsupported opcode %d", code)
}

// message is an incoming message, which the server reads in parts.
type message struct {
	r    *bufio.Reader
	left int64 // number of unread bytes
	// command is the first key in the command document, such as "insert". name is the collection's name.
	command, name string
	documents     int32 // number of documents in the sequence after the command
}

// query reads an OP_QUERY message, which consists of flags, a collection name, the number of documents to skip, the
// number of documents to return, and the command.
func (m *message) query() error {
	if err := m.skip(4); err != nil {
		return err
	}
	if _, err := m.text(); err != nil {
		return err
	}
	if err := m.skip(8); err != nil {
		return err
	}
	if err := m.body(); err != nil {
		return err
	}
	return m.skip(m.left)
}

// message reads an OP_MSG message, which consists of flags and sections. Each section contains either the command or a
// sequence of documents.
func (m *message) message(inserted func(string, bson.Raw)) (flags uint32, err error) {
	flags, err = m.number()
	if err != nil {
		return 0, err
	}
	if unknown := flags &^ (moreToCome | exhaustAllowed); unknown != 0 { // drivers do not set checksumPresent
		return 0, fmt.Errorf("unsupported message flags %#x", unknown)
	}
	for m.left > 0 {
		kind, err := m.take(1)
		if err != nil {
			return 0, err
		}
		switch kind[0] {
		case 0:
			err = m.body()
		case 1:
			err = m.sequence(inserted)
		default:
			err = fmt.Errorf("unsupported section kind %d", kind[0])
		}
		if err != nil {
			return 0, err
		}
	}
	if m.command == "" {
		return 0, errors.New("the message has no command")
	}
	return flags, nil
}

// body reads the document that contains the command.
func (m *message) body() error {
	document, err := m.document()
	if err != nil {
		return err
	}
	elements, err := document.Elements()
	if err != nil || len(elements) == 0 {
		return errors.Join(errors.New("malformed command"), err)
	}
	m.command = elements[0].Key()
	m.name, _ = elements[0].Value().StringValueOK()
	if documents, ok := document.Lookup("documents").ArrayOK(); ok {
		return fmt.Errorf("the command %q contains %d bytes of documents, which must be in a document sequence instead", m.command, len(documents))
	}
	return nil
}

// sequence reads a sequence of documents, which must come after its command.
func (m *message) sequence(inserted func(string, bson.Raw)) error {
	size, err := m.number()
	if err != nil {
		return err
	}
	end := m.left + 4 - int64(size)
	if end < 0 || m.command == "" {
		return fmt.Errorf("the document sequence after the command %[2]q has the invalid length %[1]d: %[3]d bytes are left in the message", size, m.command, m.left)
	}
	if _, err := m.text(); err != nil {
		return err
	}
	for ; m.left > end; m.documents++ {
		if m.command == "insert" && inserted != nil {
			document, err := m.document()
			if err != nil {
				return err
			}
			inserted(m.name, document)
			continue
		}
		size, err := m.number()
		if err != nil {
			return err
		}
		if err := m.skip(int64(size) - 4); err != nil {
			return err
		}
	}
	if m.left != end {
		return errors.New("a document is longer than its sequence")
	}
	return nil
}

// document reads a BSON document.
func (m *message) document() (bson.Raw, error) {
	head, err := m.r.Peek(4)
	if err != nil {
		return nil, err
	}
	size := int64(binary.LittleEndian.Uint32(head))
	if size < 5 || size > maxDocument+readBuffer { // a command can be slightly larger than the document that it contains
		return nil, fmt.Errorf("invalid document length %d", size)
	}
	return m.take(size)
}

// text reads a string that ends with a zero byte, and returns it without the zero byte.
func (m *message) text() (string, error) {
	text, err := m.r.ReadString(0)
	m.left -= int64(len(text))
	if err == nil && m.left < 0 {
		err = errors.New("a string is longer than its message")
	}
	return strings.TrimSuffix(text, "\x00"), err
}

func (m *message) number() (uint32, error) {
	b, err := m.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

// take reads n bytes of the message.
func (m *message) take(n int64) ([]byte, error) {
	if m.left -= n; n < 0 || m.left < 0 {
		return nil, fmt.Errorf("the declared length of %d bytes exceeds the rest of the message", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(m.r, b)
	return b, err
}

// skip reads n bytes of the message and discards them.
func (m *message) skip(n int64) error {
	if m.left -= n; n < 0 || m.left < 0 {
		return fmt.Errorf("the declared length of %d bytes exceeds the rest of the message", n)
	}
	_, err := m.r.Discard(int(n))
	return err
}

// reply writes a response. code is the response's opcode, answer is the response's document, and request is the ID of
// the message to which the server is responding.
func (m *message) reply(w io.Writer, request, code uint32, answer bson.D) error {
	document, err := bson.Marshal(answer)
	if err != nil {
		return err
	}
	var b []byte
	if code == opReply {
		b = make([]byte, headerSize+20) // flags, cursor and start are 0
		binary.LittleEndian.PutUint32(b[headerSize+16:], 1)
	} else {
		b = make([]byte, headerSize+5) // flags and kind are 0
	}
	b = append(b, document...)
	binary.LittleEndian.PutUint32(b, uint32(len(b)))
	binary.LittleEndian.PutUint32(b[8:], request)
	binary.LittleEndian.PutUint32(b[12:], code)
	_, err = w.Write(b)
	return err
}
