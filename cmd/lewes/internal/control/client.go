package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// ErrNotRunning means that no process serves a socket.
var ErrNotRunning = errors.New("no process serves it")

// retryFor bounds the time in which a Client tries again because a socket is busy.
const retryFor = 15 * time.Second

// Client makes requests to a socket.
type Client struct{ Path string }

// Get decodes the answer to a GET into v.
func (c Client) Get(ctx context.Context, target string, v any) error {
	body, err := c.Stream(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	return decode(body, v)
}

// Post sends a JSON object and decodes the answer into v.
func (c Client) Post(ctx context.Context, target string, request, v any) error {
	body, err := c.Stream(ctx, http.MethodPost, target, request)
	if err != nil {
		return err
	}
	defer body.Close()
	return decode(body, v)
}

func decode(r io.Reader, v any) error {
	if err := json.NewDecoder(r).Decode(v); err != nil {
		return fmt.Errorf("invalid answer on the control socket: %w", err)
	}
	return nil
}

// Stream makes a request and returns the body of the answer. An answer that is an error becomes one.
func (c Client) Stream(ctx context.Context, method, target string, request any) (io.ReadCloser, error) {
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return nil, err
		}
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Path)
		},
	}
	for began := time.Now(); ; {
		r, err := http.NewRequestWithContext(ctx, method, "http://lewes"+target, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		answer, err := transport.RoundTrip(r)
		if err == nil && answer.StatusCode == http.StatusOK {
			return answer.Body, nil
		}
		if err == nil {
			err = answerError(answer)
		}
		// A connection that is refused or makes room for another breaks before an answer.
		busy := answer != nil && answer.StatusCode == http.StatusServiceUnavailable ||
			errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EAGAIN)
		if !busy || time.Since(began) > retryFor || method == http.MethodPost && answer == nil {
			return nil, c.explain(err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// answerError returns the error that an answer carries.
func answerError(answer *http.Response) error {
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	var f failure
	if json.Unmarshal(text, &f) == nil && f.Error != "" {
		return errors.New(f.Error)
	}
	return fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(text)))
}

// explain replaces the errors of dialing.
func (c Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w", c.Path, ErrNotRunning)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w: run this as root, as the gateway's user, or as a member of the socket's group", c.Path, fs.ErrPermission)
	}
	return err
}
