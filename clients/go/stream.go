package guard

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qwen3guard.internal/clients/go/guardpb"
)

const window = 64 // requests in flight in one stream; the server reads no more

// Stream judges the requests of a channel until the channel is closed. It sends them over one
// stream, with up to 64 in flight, and yields outcomes as they come, each with its request's index.
// A request that meets an overload is sent again later. If a server stops or dies, its requests
// without an outcome are sent to another one. Ending the loop or the context cancels the requests
// in flight.
//
// An error, which is an *Error, ends the stream: requests without an outcome were not judged. The
// client's timeout does not apply: the server and [ItemTimeout] limit each request, and the context
// the whole stream.
func (c *Client) Stream(
	ctx context.Context, requests <-chan *guardpb.ModerateRequest, options ...StreamOption,
) iter.Seq2[Outcome, error] {
	return func(yield func(Outcome, error) bool) {
		s := &stream{client: c, requests: requests, yield: yield}
		for _, option := range options {
			option(s)
		}
		if err := s.run(ctx); err != nil {
			yield(Outcome{}, err)
		}
	}
}

// item is one request that was taken from the channel.
type item struct {
	index      int
	request    *guardpb.ModerateRequest
	refused    error // set if the client itself refused it
	sent       int   // number of times it was sent; part of its id, because each id is used once
	overloaded int   // number of times it met an overload
	due        time.Time
	done       bool // it has its outcome; if it timed out, the server may still answer it
}

type stream struct {
	client   *Client
	timeout  time.Duration                   // of an item; 0 if there is none
	requests <-chan *guardpb.ModerateRequest // nil once it is closed
	yield    func(Outcome, error) bool
	taken    int     // number of requests read from the channel
	unsent   []*item // requests to send again
	inFlight map[string]*item
	open     []*item          // those without an outcome, and some with one; the oldest is first
	pause    <-chan time.Time // set after an overload: nothing is sent until it fires
	failures int              // connections in a row that broke without an outcome
	stopped  bool             // the caller ended the loop
}

// run connects until every request has its outcome, the caller stops, or retries are used up.
func (s *stream) run(ctx context.Context) error {
	for {
		err := s.connected(ctx)
		if err == nil {
			return nil
		}
		failed := asError(err)
		s.failures++
		if failed.Code != codes.Unavailable || s.failures == maxAttempts ||
			!s.wait(ctx, afterBroken(s.failures)) {
			return s.client.security.explained(ctx, failed)
		}
		if s.stopped {
			return nil
		}
	}
}

// received is what one read of a call gave.
type received[A any] struct {
	answer A
	err    error
}

// connected sends and receives over one connection until it ends.
func (s *stream) connected(ctx context.Context) error {
	for _, item := range s.inFlight {
		if !item.done {
			s.unsent = append(s.unsent, item)
		}
	}
	s.inFlight = map[string]*item{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var call guardpb.ModerationService_StreamModerateClient // nil until there is a connection
	calls, answers := make(chan guardpb.ModerationService_StreamModerateClient), make(chan received[*guardpb.StreamModerateResponse])
	open := func(ctx context.Context) (guardpb.ModerationService_StreamModerateClient, error) {
		return s.client.service.StreamModerate(ctx)
	}
	go receive(ctx, open, calls, answers)
	for {
		maySend := call != nil && s.pause == nil && len(s.inFlight) < window
		for ; maySend && len(s.unsent) > 0; maySend = len(s.inFlight) < window {
			s.send(call, s.unsent[0])
			s.unsent = s.unsent[1:]
		}
		overdue := s.firstDue()
		if s.requests == nil && len(s.open) == 0 {
			if call != nil {
				_ = call.CloseSend()
			}
			return nil // what timed out is cancelled with the context
		}
		requests := s.requests
		if !maySend {
			requests = nil
		}
		select {
		case request, open := <-requests:
			if !open {
				s.requests = nil
				break
			}
			s.send(call, s.newItem(request))
		case call = <-calls:
		case received := <-answers:
			if received.err == io.EOF { // a server or a proxy ended it as if all were answered
				return &Error{Code: codes.Unavailable, Message: "the server ended the stream early"}
			}
			if received.err != nil {
				return received.err
			}
			s.take(received.answer)
		case <-overdue:
			s.expire()
		case <-s.pause:
			s.pause = nil
		case <-ctx.Done():
			return ctx.Err()
		}
		if s.stopped {
			return nil
		}
	}
}

// receive opens a call and reads its answers, until it fails or the context ends.
func receive[C interface{ Recv() (A, error) }, A any](
	ctx context.Context, open func(context.Context) (C, error),
	calls chan<- C, answers chan<- received[A],
) {
	call, err := open(ctx)
	if err == nil {
		select {
		case calls <- call:
		case <-ctx.Done():
			return
		}
	}
	for {
		var answer A
		if err == nil {
			answer, err = call.Recv()
		}
		select {
		case answers <- received[A]{answer, err}:
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
	// If sending fails, Recv returns the reason.
	_ = call.Send(&guardpb.StreamModerateRequest{Id: id, Request: item.request})
}

func (s *stream) take(answer *guardpb.StreamModerateResponse) {
	item, known := s.inFlight[answer.Id]
	if !known {
		return
	}
	delete(s.inFlight, answer.Id)
	s.failures = 0
	if item.done {
		return
	}
	outcome := Outcome{Index: item.index, Response: answer.GetResponse()}
	if item.refused != nil {
		outcome.Err = item.refused
	} else if answer.GetError() != nil {
		failed := fromStatus(status.FromProto(answer.GetError()))
		if item.overloaded++; overloaded(failed) && item.overloaded < maxAttempts {
			s.pause = time.After(afterOverload(failed, item.overloaded))
			s.unsent = append(s.unsent, item)
			return
		}
		outcome.Err = failed
	}
	item.done = true
	s.stopped = !s.yield(outcome, nil)
}
