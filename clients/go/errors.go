package guard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error says why there is no verdict.
type Error struct {
	Code       codes.Code
	Reason     string // the kind of error, such as "OVERLOADED"; empty if the server did not answer
	Message    string
	Violations []Violation   // the fields at fault; only with INVALID_ARGUMENT
	RetryAfter time.Duration // how long to wait before a retry; 0 unless the server is overloaded
}

// Violation is one thing wrong with one field, such as "conversation[2].content".
type Violation struct {
	Field       string
	Description string
}

func (e *Error) Error() string { return fmt.Sprintf("guard: %s: %s", e.Code, e.Message) }

// Is makes errors.Is find context.DeadlineExceeded and context.Canceled.
func (e *Error) Is(target error) bool {
	return target == context.DeadlineExceeded && e.Code == codes.DeadlineExceeded ||
		target == context.Canceled && e.Code == codes.Canceled
}

// Outage reports whether the service, and not the request, is why there is no verdict in time. Fail
// open on these only: what a request holds can cause every other error, so that its author would
// choose what passes unjudged.
func (e *Error) Outage() bool {
	return e.Code == codes.Unavailable || e.Code == codes.DeadlineExceeded || overloaded(e)
}

// asError converts an error of gRPC or of a context.
func asError(err error) *Error {
	if known := new(Error); errors.As(err, &known) {
		return known
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fromStatus(status.FromContextError(err))
	}
	return fromStatus(status.Convert(err))
}

func fromStatus(s *status.Status) *Error {
	found := &Error{Code: s.Code(), Message: s.Message()}
	for _, detail := range s.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			found.Reason = detail.Reason
		case *errdetails.RetryInfo:
			found.RetryAfter = detail.RetryDelay.AsDuration()
		case *errdetails.BadRequest:
			for _, v := range detail.FieldViolations {
				found.Violations = append(found.Violations, Violation{v.Field, v.Description})
			}
		}
	}
	return found
}
