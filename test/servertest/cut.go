package servertest

import (
	"bytes"
	"net"
	"sync/atomic"
	"testing"
)

// Cut describes which connections a proxy cuts.
type Cut struct {
	// Text is contained in each request whose connection the proxy cuts.
	Text string
	// Forward reports whether the server receives the request. The client never receives the reply.
	Forward bool
	// Times is the maximum number of connections that the proxy cuts. 0 means that there is no maximum.
	Times int32
}

// Proxy starts a proxy in front of a server and returns its address. The proxy runs until the test ends.
func (c Cut) Proxy(t *testing.T, server string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	var cuts atomic.Int32
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go c.serve(client, server, &cuts)
		}
	}()
	return listener.Addr().String()
}

// serve forwards the bytes of one connection until a side closes the connection or the proxy cuts it.
func (c Cut) serve(client net.Conn, server string, cuts *atomic.Int32) {
	defer client.Close()
	upstream, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer upstream.Close()
	var cut atomic.Bool // whether the reply must not reach the client
	go func() {
		defer client.Close()
		for buffer := make([]byte, 64<<10); ; {
			n, err := upstream.Read(buffer)
			if err != nil || cut.Load() {
				return
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	for buffer := make([]byte, 64<<10); ; {
		n, err := client.Read(buffer)
		if err != nil {
			return
		}
		if bytes.Contains(buffer[:n], []byte(c.Text)) && (cuts.Add(1) <= c.Times || c.Times == 0) {
			cut.Store(true)
		}
		if cut.Load() && !c.Forward {
			return
		}
		if _, err := upstream.Write(buffer[:n]); err != nil {
			return
		}
	}
}
