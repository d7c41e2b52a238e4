package guard

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"qwen3guard.internal/clients/go/guardpb"
)

// StreamOption changes one stream.
type StreamOption func(*stream)

// ItemTimeout limits each request of a stream, from when the client takes it from the channel, with
// its retries. Then its outcome is an *Error with DeadlineExceeded, and the stream goes on.
func ItemTimeout(timeout time.Duration) StreamOption {
	return func(s *stream) { s.timeout = timeout }
}

func (s *stream) newItem(given *guardpb.ModerateRequest) *item {
	request, refused := checked(given)
	taken := &item{index: s.taken, request: request, refused: refused, due: time.Now().Add(s.timeout)}
	s.taken++
	s.open = append(s.open, taken)
	return taken
}

// firstDue returns a channel that fires when the oldest request without an outcome is overdue.
func (s *stream) firstDue() <-chan time.Time {
	for len(s.open) > 0 && s.open[0].done {
		s.open = s.open[1:]
	}
	if s.timeout == 0 || len(s.open) == 0 {
		return nil
	}
	return time.After(time.Until(s.open[0].due))
}

// expire ends the oldest request. The server may still be working on it, so that it counts as in
// flight until it is answered.
func (s *stream) expire() {
	overdue := s.open[0]
	overdue.done = true
	s.unsent = slices.DeleteFunc(s.unsent, func(item *item) bool { return item.done })
	s.stopped = !s.yield(Outcome{Index: overdue.index, Err: &Error{
		Code:    codes.DeadlineExceeded,
		Message: fmt.Sprintf("no verdict within the %s of a stream's item", s.timeout),
	}}, nil)
}

// wait waits before the next connection. It returns false if the context ends first.
func (s *stream) wait(ctx context.Context, delay time.Duration) bool {
	rested := time.After(delay)
	for !s.stopped && (s.requests != nil || len(s.open) > 0) {
		select {
		case <-rested:
			return true
		case <-s.firstDue():
			s.expire()
		case <-ctx.Done():
			return false
		}
	}
	return true
}
