// Package nullmongo is a server that speaks as much of the MongoDB wire protocol as an upload needs, says yes to all of
// it and keeps nothing. Against it, what writes can be measured alone, with no database in the way: the fastest there
// can be. It can show each document that is inserted to somebody who wants to compare.
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

// The codes of messages, and what flags of OP_MSG may be set. The server knows no compression, so nobody compresses.
const (
	opReply = 1
	opQuery = 2004 // the first message on a connection may be a hello in this old form
	opMsg   = 2013

	checksumPresent = 1 << 0
	moreToCome      = 1 << 1
	exhaustAllowed  = 1 << 16
)

// Bounds in bytes: of a message and of a document, which clients are told, and of a connection's buffer.
const (
	maxMessage  = 48_000_000
	maxDocument = 16 << 20
	readBuffer  = 64 << 10
	headerSize  = 16
)

// Server is a running server.
type Server struct {
	listener net.Listener
	inserted func(collection string, document bson.Raw)
	hold     sync.RWMutex // held while no insert of chunks is answered
	serving  sync.WaitGroup

	mu          sync.Mutex
	intercept   func(command, collection string) bson.D
	closed      bool
	connections map[net.Conn]struct{}
	err         error
}

// Start starts a server on a free port of loopback. inserted is called with each document before its insert is answered,
// by several goroutines at once; the document is the callee's until it returns. With nil, documents are thrown away
// without being looked at.
func Start(inserted func(collection string, document bson.Raw)) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{listener: listener, inserted: inserted, connections: map[net.Conn]struct{}{}}
	s.serving.Go(s.accept)
	return s, nil
}

// URI names the database strongroom on the server.
func (s *Server) URI() string { return "mongodb://" + s.listener.Addr().String() + "/strongroom" }

// Hold lets no insert into fs.chunks be answered until release is called: what is on its way stays on its way.
func (s *Server) Hold() (release func()) {
	s.hold.Lock()
	return s.hold.Unlock
}

// Intercept makes the server call reply with each command, such as "insert", and its collection. If reply returns a
// document, the server responds with that document instead of its own. Several goroutines can call reply at the same time.
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

// Close ends all connections and returns what went wrong on any of them before: a message that the server does not know,
// but not that a client went away.
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

// accept serves each connection by a goroutine of its own.
func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return // closed
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

// serve answers the messages of a connection until it ends.
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
	var network net.Error // such as that this side closed it
	if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.As(err, &network) {
		s.err = errors.Join(s.err, err)
	}
}

// answer reads one message and answers it.
func (s *Server) answer(r *bufio.Reader, w io.Writer) error {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	length := int64(binary.LittleEndian.Uint32(header[:]))
	request, code := binary.LittleEndian.Uint32(header[4:]), binary.LittleEndian.Uint32(header[12:])
	if length < headerSize || length > maxMessage {
		return fmt.Errorf("a message of %d bytes", length)
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
		if flags&moreToCome != 0 { // wants no answer
			return nil
		}
		return m.reply(w, request, opMsg, s.reply(m))
	}
	return fmt.Errorf("a message with the code %d", code)
}

// message is one that is being read.
type message struct {
	r    *bufio.Reader
	left int64 // of it, in bytes
	// command is its name, name that of the collection, and documents how many came with it in a sequence.
	command, name string
	documents     int32
}

// query reads an OP_QUERY: flags, a name, how many to skip and to return, and the command.
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

// message reads an OP_MSG: flags and then sections, the command or a sequence of documents each.
func (m *message) message(inserted func(string, bson.Raw)) (flags uint32, err error) {
	flags, err = m.number()
	if err != nil {
		return 0, err
	}
	if unknown := flags &^ (moreToCome | exhaustAllowed); unknown != 0 { // a checksum, too: drivers send none
		return 0, fmt.Errorf("a message with the flags %#x", unknown)
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
			err = fmt.Errorf("a section of kind %d", kind[0])
		}
		if err != nil {
			return 0, err
		}
	}
	if m.command == "" {
		return 0, errors.New("a message without a command")
	}
	return flags, nil
}

// body reads the command.
func (m *message) body() error {
	document, err := m.document()
	if err != nil {
		return err
	}
	elements, err := document.Elements()
	if err != nil || len(elements) == 0 {
		return fmt.Errorf("a command that is not well-formed: %w", err)
	}
	m.command = elements[0].Key()
	m.name, _ = elements[0].Value().StringValueOK()
	if documents, ok := document.Lookup("documents").ArrayOK(); ok {
		return fmt.Errorf("%s with its documents in the command, %d bytes: not as a sequence", m.command, len(documents))
	}
	return nil
}

// sequence reads a sequence of documents, which has to come after its command.
func (m *message) sequence(inserted func(string, bson.Raw)) error {
	size, err := m.number()
	if err != nil {
		return err
	}
	end := m.left + 4 - int64(size)
	if end < 0 || m.command == "" {
		return fmt.Errorf("a sequence of %d bytes after the command %q, with %d bytes left", size, m.command, m.left)
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
		return errors.New("a document that is longer than its sequence")
	}
	return nil
}

// document reads a document.
func (m *message) document() (bson.Raw, error) {
	head, err := m.r.Peek(4)
	if err != nil {
		return nil, err
	}
	size := int64(binary.LittleEndian.Uint32(head))
	if size < 5 || size > maxDocument+readBuffer { // a command may be a little larger than the documents in it
		return nil, fmt.Errorf("a document of %d bytes", size)
	}
	return m.take(size)
}

// text reads up to a zero byte.
func (m *message) text() (string, error) {
	text, err := m.r.ReadString(0)
	m.left -= int64(len(text))
	if err == nil && m.left < 0 {
		err = errors.New("a text that is longer than its message")
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

// take reads n bytes.
func (m *message) take(n int64) ([]byte, error) {
	if m.left -= n; n < 0 || m.left < 0 {
		return nil, fmt.Errorf("a part of %d bytes, which is longer than its message", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(m.r, b)
	return b, err
}

// skip throws n bytes away.
func (m *message) skip(n int64) error {
	if m.left -= n; n < 0 || m.left < 0 {
		return fmt.Errorf("a part of %d bytes, which is longer than its message", n)
	}
	_, err := m.r.Discard(int(n))
	return err
}

// reply writes the answer to the request with the given id.
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
