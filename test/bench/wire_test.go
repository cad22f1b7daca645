package bench

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/strongroom-dev/strongroom/test/servertest"
)

// wire is a proxy in front of a MongoDB server that counts the commands of its clients.
type wire struct {
	uri      string // the URI of the server through the proxy
	server   string
	commands atomic.Int64
}

// background contains the commands that the driver sends on its own, in lower case. The proxy does not count them.
var background = []string{"hello", "ismaster", "saslstart", "saslcontinue", "ping", "endsessions"}

// startWire starts a proxy in front of the server that uri names. The proxy runs until the test ends.
func startWire(t *testing.T, uri string) *wire {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	u := servertest.ParseURL(t, uri)
	w := &wire{server: u.Host}
	u.Host = listener.Addr().String()
	query := u.Query()
	query.Set("directConnection", "true") // otherwise, the driver would connect to the members of a replica set directly
	u.RawQuery = query.Encode()
	w.uri = u.String()
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go w.serve(client)
		}
	}()
	return w
}

// serve forwards the bytes of one connection until a side closes the connection.
func (w *wire) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		defer client.Close()
		_, _ = io.Copy(client, server) // ends when a side closes the connection
	}()
	for r := bufio.NewReaderSize(client, 64<<10); ; {
		length, command, err := peekCommand(r)
		if err != nil {
			return
		}
		if !slices.Contains(background, strings.ToLower(command)) {
			w.commands.Add(1)
		}
		if _, err := io.CopyN(server, r, length); err != nil {
			return
		}
	}
}

// peekCommand returns the length of the next message and the name of its command, without reading the message. The
// driver sends the legacy message type only for the command hello.
func peekCommand(r *bufio.Reader) (length int64, command string, err error) {
	const (
		opMsg   = 2013
		opcode  = 12                  // the offset of the opcode
		section = 16 + 4              // the offset of the first section, after the header and the flags
		name    = section + 1 + 4 + 1 // the offset of the first key, after the kind, the length and the type
		longest = 64                  // the maximum length of a message's beginning that contains the first key
	)
	header, err := r.Peek(name)
	if err != nil {
		return 0, "", err
	}
	length = int64(binary.LittleEndian.Uint32(header))
	if length < name {
		return 0, "", fmt.Errorf("invalid message length %d", length)
	}
	if binary.LittleEndian.Uint32(header[opcode:]) != opMsg {
		return length, "hello", nil
	}
	if kind := header[section]; kind != 0 {
		return 0, "", fmt.Errorf("the first section has the kind %d, want 0, a command", kind)
	}
	start, err := r.Peek(int(min(length, name+longest)))
	if err != nil {
		return 0, "", err
	}
	key, _, found := bytes.Cut(start[name:], []byte{0})
	if !found {
		return 0, "", fmt.Errorf("the name of the command is longer than %d bytes", longest)
	}
	return length, string(key), nil
}
