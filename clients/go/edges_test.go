package guard_test

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"

	guard "qwen3guard.internal/clients/go"
	"qwen3guard.internal/clients/go/guardpb"
)

const notText = "How do I boil an \xff?"

func TestTextThatIsNotUTF8IsRefusedByName(t *testing.T) {
	client, err := guard.NewClient("localhost:1", guard.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for field, request := range map[string]*guardpb.ModerateRequest{
		"conversation[1].content": guard.Reply("How?", notText),
		"routing_key":             {RoutingKey: notText},
		"slot":                    {Slot: notText},
	} {
		_, err := client.Moderate(context.Background(), request)
		refusedFor(t, field, err)
	}
}

func TestOfSeveralRequestsOneThatIsNotTextFailsAlone(t *testing.T) {
	client, err := guard.NewClient(readPlan(t).Servers["engine"], guard.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	requests := []*guardpb.ModerateRequest{
		guard.Prompt("How do I boil an egg?"), guard.Prompt(notText), guard.Prompt("And two?"),
	}
	outcomes, err := client.Batch(context.Background(), requests...)
	if err != nil || len(outcomes) != 3 {
		t.Fatal(outcomes, err)
	}
	channel := make(chan *guardpb.ModerateRequest, 3)
	for _, request := range requests {
		channel <- request
	}
	close(channel)
	for outcome, err := range client.Stream(context.Background(), channel) {
		if err != nil {
			t.Fatal(err)
		}
		outcomes = append(outcomes, outcome)
	}
	if len(outcomes) != 6 {
		t.Fatalf("%d outcomes", len(outcomes))
	}
	for _, outcome := range outcomes {
		if outcome.Index == 1 {
			refusedFor(t, "conversation[0].content", outcome.Err)
		} else if outcome.Err != nil || outcome.Response == nil {
			t.Errorf("%d: %v", outcome.Index, outcome.Err)
		}
	}
}

func TestAMessageOfNoRoleIsRefusedByName(t *testing.T) {
	client, err := guard.NewClient(readPlan(t).Servers["engine"], guard.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.Moderate(context.Background(), guard.Conversation(
		guard.Message("system", "Be brief."), guard.Message("User", "How do I boil an egg?"),
	))
	refusedFor(t, "conversation[1].role", err)
}

func TestWhatIsNoListOfMessagesIsRefused(t *testing.T) {
	for given, field := range map[string]string{
		`{"role": "user", "content": "How?"}`:           "conversation",
		`[{"role": "user", "content": "How?"}`:          "conversation",
		"[{\"role\": \"user\", \"content\": \"\xff\"}]": "conversation",
		`["How?"]`: "conversation[0]",
		`[{"role": "user", "role": "user", "content": "a"}]`: "conversation[0].role",
	} {
		_, err := guard.Chat([]byte(given))
		refusedFor(t, field, err)
	}
}

func TestWhatARequestCanCauseIsNoOutage(t *testing.T) {
	for code, outage := range map[codes.Code]bool{
		codes.Unavailable:       true,
		codes.DeadlineExceeded:  true,
		codes.ResourceExhausted: false, // without RetryAfter: the message is too large
		codes.InvalidArgument:   false,
		codes.Internal:          false,
	} {
		if (&guard.Error{Code: code}).Outage() != outage {
			t.Errorf("%s: outage is not %t", code, outage)
		}
	}
	if !(&guard.Error{Code: codes.ResourceExhausted, RetryAfter: 1}).Outage() {
		t.Error("an overload is no outage")
	}
}

func refusedFor(t *testing.T, field string, err error) {
	t.Helper()
	var failed *guard.Error
	if !errors.As(err, &failed) || failed.Code != codes.InvalidArgument || failed.Outage() ||
		len(failed.Violations) != 1 || failed.Violations[0].Field != field {
		t.Errorf("%s: got %v", field, err)
	}
}
