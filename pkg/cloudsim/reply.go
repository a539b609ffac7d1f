package cloudsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// refusal is an error that an API answers with. Tencent has no use for the status.
type refusal struct {
	Status  int
	Code    string
	Message string
}

func (r *refusal) Error() string { return r.Code + ": " + r.Message }

func refuse(status int, code, format string, args ...any) error {
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

// reply is a whole answer, so that a fault can spoil it before it is sent.
type reply struct {
	Status int
	Type   string
	Body   []byte
}

func jsonReply(status int, v any) reply {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // neither cloud escapes < and >
	if err := enc.Encode(v); err != nil {
		return reply{http.StatusInternalServerError, "text/plain", []byte(err.Error())}
	}
	return reply{status, "application/json;charset=utf-8", bytes.TrimSuffix(body.Bytes(), []byte("\n"))}
}

func (a reply) send(w http.ResponseWriter) {
	w.Header().Set("Content-Type", a.Type)
	w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // the caller has gone: nobody is left to be told
}

// sendRaw writes the answer past net/http, sends only the first n bytes of the
// body, and closes the connection without having announced it.
func (a reply) sendRaw(w http.ResponseWriter, n int) {
	conn := hijack(w)
	if conn == nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
		a.Status, http.StatusText(a.Status), a.Type, len(a.Body))
	_, _ = conn.Write(a.Body[:n])
}

// reset ends the connection with a TCP reset instead of an answer.
func reset(w http.ResponseWriter) {
	conn := hijack(w)
	if conn == nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func hijack(w http.ResponseWriter) net.Conn {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil
	}
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	return conn
}

// spoil sends an answer as the fault says.
func (f *Fault) spoil(w http.ResponseWriter, a reply) {
	switch f.Kind {
	case "reset_before_commit", "reset_after_commit":
		reset(w)
	case "http_502_html":
		a = reply{http.StatusBadGateway, "text/html", []byte("<html><body><h1>502 Bad Gateway</h1></body></html>")}
		a.send(w)
	case "empty_200":
		reply{http.StatusOK, a.Type, nil}.send(w)
	case "truncated":
		a.sendRaw(w, len(a.Body)/2)
	case "stale_close":
		a.sendRaw(w, len(a.Body))
	case "wrong_type":
		a.Body = swapTypes(a.Body)
		a.send(w)
	case "redirect_307":
		w.Header().Set("Location", "/")
		reply{http.StatusTemporaryRedirect, "text/plain", nil}.send(w)
	default:
		a.send(w)
	}
}

// swapTypes turns numbers into objects and strings into arrays, all the way down.
func swapTypes(body []byte) []byte {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return body
	}
	swapped, err := json.Marshal(swapValue(v))
	if err != nil {
		return body
	}
	return swapped
}

func swapValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = swapValue(v[k])
		}
	case []any:
		for i := range v {
			v[i] = swapValue(v[i])
		}
	case json.Number:
		return map[string]any{"value": v.String()}
	case string:
		return []any{len(v)}
	}
	return v
}
