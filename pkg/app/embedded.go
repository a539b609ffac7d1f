package app

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Embedded is a nats-server in this process, for a single machine.
type Embedded struct{ server *server.Server }

// StartEmbedded starts a server with file storage below dir and an fsync on
// every write: an acknowledged order survives a power cut. listen is host:port;
// empty means the loopback and NATS's usual port if that is free, so that the
// stock nats command finds it.
func StartEmbedded(dir, listen string) (*Embedded, error) {
	host, port, err := listenAt(listen)
	if err != nil {
		return nil, err
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "certmill", Host: host, Port: port,
		JetStream: true, StoreDir: filepath.Join(dir, "nats"), SyncAlways: true,
		NoSigs: true, NoLog: true, MaxPayload: 1 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("embedded nats-server: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		return nil, errors.New("embedded nats-server did not become ready within 30 s; is another one running on the same state folder?")
	}
	return &Embedded{server: s}, nil
}

func listenAt(listen string) (host string, port int, err error) {
	if listen == "" {
		return "127.0.0.1", usualPort(), nil
	}
	host, text, err := net.SplitHostPort(listen)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil {
		return "", 0, fmt.Errorf("nats.listen is %q: write host:port", listen)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

func usualPort() int {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(server.DEFAULT_PORT)))
	if err != nil {
		return server.RANDOM_PORT
	}
	_ = l.Close()
	return server.DEFAULT_PORT
}

// URL is where other processes reach it.
func (e *Embedded) URL() string { return e.server.ClientURL() }

// Stop shuts the server down and waits until its files are closed.
func (e *Embedded) Stop() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}
