package guard

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

const (
	lookTimeout = time.Second
	lookAgain   = 10 * time.Second // callers of a server that is down do not add to its load
)

// security finds out whether a server that can't be reached disagrees with the client about TLS.
// gRPC's own error may name another of the server's addresses, or only say that it hung up.
type security struct {
	address string // host:port, or empty if the target has none
	plain   bool   // whether the client connects in plain text

	mutex  sync.Mutex
	looked time.Time
	found  string
}

func newSecurity(target string, plain bool) *security {
	address := target[strings.LastIndex(target, "/")+1:]
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = ""
	}
	return &security{address: address, plain: plain}
}

// explained adds to an error of the connection what is wrong with its security, if anything is.
func (s *security) explained(ctx context.Context, failed *Error) *Error {
	if failed.Code != codes.Unavailable || failed.Reason != "" || s.address == "" {
		return failed
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if time.Since(s.looked) > lookAgain {
		s.found, s.looked = s.mismatch(ctx), time.Now()
	}
	if s.found == "" {
		return failed
	}
	return &Error{Code: failed.Code, Message: s.found + " gRPC says: " + failed.Message}
}

func (s *security) mismatch(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	connection, err := new(tls.Dialer).DialContext(ctx, "tcp", s.address)
	if err == nil {
		_ = connection.Close()
	}
	var noTLS tls.RecordHeaderError
	var untrusted *tls.CertificateVerificationError
	var alert *net.OpError
	speaksTLS := err == nil || errors.As(err, &untrusted) ||
		errors.As(err, &alert) && alert.Op == "remote error"
	switch {
	case errors.As(err, &noTLS) && !s.plain:
		return s.address + " speaks no TLS: use WithInsecure, or give the server a certificate."
	case speaksTLS && s.plain:
		return s.address + " speaks TLS only: leave WithInsecure out."
	}
	return ""
}
