package wallet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"lewes/crypto/tickets"
)

const (
	// issuerTimeout bounds a request to an issuer.
	issuerTimeout = 30 * time.Second
	// busyPause is the pause after an answer of a busy issuer that names none, maxBusyPause the longest.
	busyPause    = time.Second
	maxBusyPause = 30 * time.Second
	// maxReason bounds an issuer's own words in an error.
	maxReason = 200
)

var (
	// ErrVoucherUnknown means that an issuer does not know a voucher.
	ErrVoucherUnknown = errors.New("the issuer does not know this voucher")
	// ErrUsedUp means that a voucher is good for no further ticket.
	ErrUsedUp = errors.New("the voucher is used up")
	// ErrUnreachable means that an issuer did not answer.
	ErrUnreachable = errors.New("the issuer cannot be reached")

	errRequest = errors.New("the issuer refuses the request")
)

// session is a conversation with an issuer about a voucher.
type session struct {
	tickets.Issuer
	voucher  string
	client   *http.Client
	requests string // URL of token requests
}

func newSession(issuer tickets.Issuer, voucher tickets.Voucher) *session {
	return &session{Issuer: issuer, voucher: voucher.Text(), client: &http.Client{
		Timeout: issuerTimeout,
		// A voucher is sent to the issuer's origin only.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// directory returns the issuer's keys, which its pin has signed.
func (s *session) directory(ctx context.Context) (*tickets.Directory, error) {
	text, err := s.do(ctx, http.MethodGet, s.DirectoryURL(), nil, tickets.MaxDirectorySize)
	if err != nil {
		return nil, err
	}
	d, err := tickets.ParseDirectory(text, s.Pin)
	switch {
	case errors.Is(err, tickets.ErrPin):
		return nil, fmt.Errorf("%w\nget the issuer's URL#PIN again from where you bought the voucher; never take it from the gateway", err)
	case err != nil:
		return nil, err
	case d.Issuer != s.Name():
		return nil, fmt.Errorf("its list of keys is for issuer %q, not for %q", d.Issuer, s.Name())
	}
	if s.requests, err = s.RequestURL(d); err != nil {
		return nil, err
	}
	return d, nil
}

// balance is what a voucher is good for.
type balance struct {
	Left    int    `json:"left"`
	Bytes   uint64 `json:"bytes"`
	Seconds uint32 `json:"seconds"`
}

func (s *session) balance(ctx context.Context) (b balance, err error) {
	text, err := s.do(ctx, http.MethodGet, s.requests, nil, 4096)
	if err != nil {
		return b, err
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return b, fmt.Errorf("cannot parse what the voucher is good for: %w", err)
	}
	return b, nil
}

// sign asks for the signature of a request.
func (s *session) sign(ctx context.Context, r tickets.Request) (tickets.Response, error) {
	body, err := s.do(ctx, http.MethodPost, s.requests, r.Append(nil), tickets.ResponseSize)
	if err != nil {
		return tickets.Response{}, err
	}
	return tickets.ParseResponse(body)
}

// do sends a request, again while the issuer is busy, and returns the answer's body of at most limit bytes.
func (s *session) do(ctx context.Context, method, to string, body []byte, limit int64) ([]byte, error) {
	for {
		answer, pause, err := s.try(ctx, method, to, body, limit)
		if pause == 0 {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// try sends a request once. A pause other than 0 means that the issuer is busy for that long.
func (s *session) try(ctx context.Context, method, to string, body []byte, limit int64) (answer []byte, pause time.Duration, err error) {
	request, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	if to == s.requests {
		request.Header.Set("Authorization", "Bearer "+s.voucher)
	}
	if body != nil {
		request.Header.Set("Content-Type", tickets.RequestMediaType)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch status := response.StatusCode; {
	case err != nil:
		return nil, 0, fmt.Errorf("%w: %w", ErrUnreachable, err)
	case status == http.StatusServiceUnavailable:
		return nil, retryAfter(response.Header), errors.New("the issuer is busy")
	case status == http.StatusUnauthorized:
		return nil, 0, fmt.Errorf("%w%s", ErrVoucherUnknown, reason(answer))
	case status == http.StatusPaymentRequired:
		return nil, 0, ErrUsedUp
	case status == http.StatusUnprocessableEntity:
		return nil, 0, fmt.Errorf("%w%s", errRequest, reason(answer))
	case status != http.StatusOK:
		return nil, 0, fmt.Errorf("the issuer answers %s%s", response.Status, reason(answer))
	case int64(len(answer)) > limit:
		return nil, 0, fmt.Errorf("the issuer's answer is longer than %d bytes", limit)
	}
	return answer, 0, nil
}

func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds <= 0 {
		return busyPause
	}
	return min(time.Duration(seconds)*time.Second, maxBusyPause)
}

// reason returns the first line of an issuer's own words, for the end of an error.
func reason(body []byte) string {
	line, _, _ := strings.Cut(string(body[:min(len(body), maxReason)]), "\n")
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, line)
	if line == "" {
		return ""
	}
	return " (" + line + ")"
}
