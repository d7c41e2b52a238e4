package guard

import (
	"context"
	"fmt"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qwen3guard/clients/go/guardpb"
)

const (
	window           = 64 // in flight in one stream: the server reads no further
	reconnectBackoff = 100 * time.Millisecond
)

// Stream judges what comes through a channel until it is closed, over one stream and up to 64 at
// a time, and gives the outcomes as they come, each with its request's index. What meets an
// overload is sent again later; what has no outcome when a server stops or dies is sent again to
// another one. Ending the loop or the context cancels what is in flight.
//
// An error, an *Error, ends the stream: what has no outcome by then was not judged. The client's
// timeout does not apply: the server bounds each request, and the context the whole.
func (c *Client) Stream(
	ctx context.Context, requests <-chan *guardpb.ModerateRequest,
) iter.Seq2[Outcome, error] {
	return func(yield func(Outcome, error) bool) {
		s := &stream{service: c.service, requests: requests, yield: yield}
		if err := s.run(ctx); err != nil {
			yield(Outcome{}, err)
		}
	}
}

// item is one request on its way.
type item struct {
	index      int
	request    *guardpb.ModerateRequest
	sent       int // how often; part of its id, because an id is good for one time
	overloaded int
}

type stream struct {
	service  guardpb.ModerationServiceClient
	requests <-chan *guardpb.ModerateRequest // nil once it is closed
	yield    func(Outcome, error) bool
	taken    int
	again    []*item
	inFlight map[string]*item
	pause    <-chan time.Time // of sending anything, after an overload
	failures int              // connections that broke without an outcome between them
	stopped  bool             // by the caller
}

// run connects until everything has its outcome, the caller stops, or it can't go on.
func (s *stream) run(ctx context.Context) error {
	for {
		err := s.connected(ctx)
		if err == nil {
			return nil
		}
		failed := asError(err)
		s.failures++
		if failed.Code != codes.Unavailable || s.failures == maxAttempts ||
			!pause(ctx, jittered(reconnectBackoff<<(s.failures-1))) {
			return failed
		}
	}
}

type received struct {
	answer *guardpb.StreamModerateResponse
	err    error
}

// connected sends and receives over one connection until its end.
func (s *stream) connected(ctx context.Context) error {
	for _, item := range s.inFlight {
		s.again = append(s.again, item)
	}
	s.inFlight = map[string]*item{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, err := s.service.StreamModerate(ctx)
	if err != nil {
		return err
	}
	answers := make(chan received)
	go receive(ctx, call, answers)
	for {
		room := s.pause == nil && len(s.inFlight) < window
		for ; room && len(s.again) > 0; room = len(s.inFlight) < window {
			s.send(call, s.again[0])
			s.again = s.again[1:]
		}
		if s.requests == nil && len(s.again) == 0 && len(s.inFlight) == 0 {
			return call.CloseSend()
		}
		requests := s.requests
		if !room {
			requests = nil
		}
		select {
		case request, open := <-requests:
			if !open {
				s.requests = nil
				break
			}
			s.send(call, &item{index: s.taken, request: request})
			s.taken++
		case received := <-answers:
			if received.err != nil {
				return received.err
			}
			if s.take(received.answer); s.stopped {
				return nil
			}
		case <-s.pause:
			s.pause = nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func receive(
	ctx context.Context, call guardpb.ModerationService_StreamModerateClient, to chan<- received,
) {
	for {
		answer, err := call.Recv()
		select {
		case to <- received{answer, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (s *stream) send(call guardpb.ModerationService_StreamModerateClient, item *item) {
	item.sent++
	id := fmt.Sprintf("%d.%d", item.index, item.sent)
	s.inFlight[id] = item
	// Why a connection can't be sent to, its receiving side says.
	_ = call.Send(&guardpb.StreamModerateRequest{Id: id, Request: item.request})
}

func (s *stream) take(answer *guardpb.StreamModerateResponse) {
	item, known := s.inFlight[answer.Id]
	if !known {
		return
	}
	delete(s.inFlight, answer.Id)
	s.failures = 0
	outcome := Outcome{Index: item.index, Response: answer.GetResponse()}
	if answer.GetError() != nil {
		outcome.Err = fromStatus(status.FromProto(answer.GetError()))
		if item.overloaded++; overloaded(outcome.Err) && item.overloaded < maxAttempts {
			s.pause = time.After(jittered(outcome.Err.RetryAfter))
			s.again = append(s.again, item)
			return
		}
	}
	s.stopped = !s.yield(outcome, nil)
}
