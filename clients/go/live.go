package guard

import (
	"context"
	"io"
	"iter"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"qwen3guard.internal/clients/go/guardpb"
)

const maxPart = 64 << 10 // bytes of an answer in one message

// LiveEvent is what is new of an answer that is judged while it is written.
type LiveEvent struct {
	Cleared string // newly cleared: whole characters, and together no more than may be shown
	Reply   *guardpb.ModerateLiveResponse
}

// Stopped reports whether the answer is blocked before its end: stop the model. The last event.
func (e LiveEvent) Stopped() bool { return e.Reply.State == guardpb.LiveState_LIVE_STATE_STOPPED }

// Finished reports whether the whole answer has its verdict. The last event.
func (e LiveEvent) Finished() bool { return e.Reply.State == guardpb.LiveState_LIVE_STATE_FINISHED }

// Blocked reports whether the answer is blocked for good, before its end or as a whole.
func (e LiveEvent) Blocked() bool {
	return (e.Stopped() || e.Finished()) && e.Reply.Action == guardpb.Action_ACTION_BLOCK
}

// Live judges an answer while it is written. The start has the conversation before it; the channel
// gives its text as the model writes it, and is closed at its end. It yields what is cleared and
// held, and last the verdict of the whole answer or of the beginning that stopped it; then nothing
// more is read from the channel, so the context that the model runs in should be cancelled. If the
// server stops or dies, another one takes the answer up. Whoever shows only what events clear shows
// nothing that was not judged.
//
// An error, which is an *Error, ends the loop: what was not cleared was not judged. Ending the loop
// abandons the answer. The client's timeout does not apply.
func (c *Client) Live(
	ctx context.Context, start *guardpb.LiveStart, texts <-chan string,
) iter.Seq2[LiveEvent, error] {
	return func(yield func(LiveEvent, error) bool) {
		l := &live{client: c, start: proto.CloneOf(start), texts: texts, yield: yield}
		if err := l.run(ctx); err != nil {
			yield(LiveEvent{}, err)
		}
	}
}

type live struct {
	client   *Client
	start    *guardpb.LiveStart // with what is cleared by now
	texts    <-chan string      // nil once it is closed
	yield    func(LiveEvent, error) bool
	text     []byte // all of the answer, so that another server can take it up
	halved   []byte // the bytes of a code point that has not come as a whole
	failures int    // connections in a row that broke without a reply
	done     bool   // after the last event, or the caller ended the loop
}

func (l *live) run(ctx context.Context) error {
	if refused := notText(l.start.GetRequest()); refused != nil {
		return refused
	}
	for {
		err := l.connected(ctx)
		if err == nil || l.done {
			return nil
		}
		failed := asError(err)
		l.failures++
		var delay time.Duration
		switch {
		case failed.Code == codes.Unavailable:
			delay = afterBroken(l.failures)
		case overloaded(failed):
			delay = afterOverload(failed, l.failures)
		}
		if delay == 0 || l.failures == maxAttempts || !pause(ctx, delay) {
			return l.client.security.explained(ctx, failed)
		}
	}
}

// connected sends and receives over one connection until the last event, or until it breaks.
func (l *live) connected(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var call guardpb.ModerationService_ModerateLiveClient // nil until there is a connection
	calls := make(chan guardpb.ModerationService_ModerateLiveClient)
	replies := make(chan received[*guardpb.ModerateLiveResponse])
	open := func(ctx context.Context) (guardpb.ModerationService_ModerateLiveClient, error) {
		return l.client.service.ModerateLive(ctx)
	}
	go receive(ctx, open, calls, replies)
	for {
		var texts <-chan string
		if call != nil {
			texts = l.texts
		}
		select {
		case call = <-calls:
			l.takeUp(call)
		case text, more := <-texts:
			if err := l.say(call, text, more); err != nil {
				return err
			}
		case received := <-replies:
			if received.err == io.EOF { // a server or a proxy ended it without a verdict
				return &Error{Code: codes.Unavailable, Message: "the server ended the answer early"}
			}
			if received.err != nil {
				return received.err
			}
			if l.take(received.answer); l.done {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// takeUp sends all that there is of the answer. If sending fails, Recv returns the reason.
func (l *live) takeUp(call guardpb.ModerationService_ModerateLiveClient) {
	part := guardpb.ModerateLiveRequest_Start{Start: l.start}
	_ = call.Send(&guardpb.ModerateLiveRequest{Part: &part})
	sendText(call, l.text)
	if l.texts == nil {
		sendEnd(call)
	}
}

// say sends what was written, or that there is no more.
func (l *live) say(
	call guardpb.ModerationService_ModerateLiveClient, text string, more bool,
) error {
	if !more {
		if len(l.halved) > 0 {
			return invalid("text", notUTF8)
		}
		l.texts = nil
		sendEnd(call)
		return nil
	}
	written := append(l.halved, text...)
	whole := wholeRunes(written)
	if !utf8.Valid(written[:whole]) {
		return invalid("text", notUTF8)
	}
	l.text = append(l.text, written[:whole]...)
	l.halved = append([]byte(nil), written[whole:]...)
	sendText(call, written[:whole])
	return nil
}

func (l *live) take(reply *guardpb.ModerateLiveResponse) {
	l.failures = 0
	if reply.State == guardpb.LiveState_LIVE_STATE_PROMPT {
		l.start.JudgePrompt = false // it is, and is not judged again
	}
	event := LiveEvent{string(l.text[l.start.ClearedBytes:reply.ClearedBytes]), reply}
	l.start.ClearedBytes = reply.ClearedBytes
	l.done = !l.yield(event, nil) || event.Stopped() || event.Finished()
}

func sendText(call guardpb.ModerationService_ModerateLiveClient, text []byte) {
	for len(text) > 0 {
		size := min(len(text), maxPart)
		if size < len(text) {
			size = wholeRunes(text[:size])
		}
		part := guardpb.ModerateLiveRequest_Text{Text: string(text[:size])}
		_ = call.Send(&guardpb.ModerateLiveRequest{Part: &part})
		text = text[size:]
	}
}

func sendEnd(call guardpb.ModerationService_ModerateLiveClient) {
	part := guardpb.ModerateLiveRequest_End{End: &guardpb.LiveEnd{}}
	_ = call.Send(&guardpb.ModerateLiveRequest{Part: &part})
	_ = call.CloseSend()
}

// wholeRunes returns the length of the text without the bytes of a code point that is cut at its end.
func wholeRunes(text []byte) int {
	for size := 1; size < utf8.UTFMax && size <= len(text); size++ {
		if last := text[len(text)-size:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				return len(text) - size
			}
			break
		}
	}
	return len(text)
}
