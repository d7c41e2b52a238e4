package guard_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	guard "qwen3guard.internal/clients/go"
	"qwen3guard.internal/clients/go/guardpb"
)

// live gives each text after the event of the one before, and the end after that of the last.
func (c *testCase) live(ctx context.Context, t *testing.T, client *guard.Client) {
	start := new(guardpb.LiveStart)
	if err := protojson.Unmarshal(c.Start, start); err != nil {
		t.Fatal(err)
	}
	texts := make(chan string, 1)
	given := 0
	next := func() {
		if given < len(c.Texts) {
			texts <- c.Texts[given]
		} else if given == len(c.Texts) {
			close(texts)
		}
		given++
	}
	next()
	var events []map[string]any
	var ends error
	for event, err := range client.Live(ctx, start, texts) {
		if ends = err; err == nil {
			events = append(events, liveEvent(t, event))
			next()
		}
	}
	c.checkEnd(t, ends)
	if len(events) != len(c.Expect) {
		t.Fatalf("%d events, expected %d: %v", len(events), len(c.Expect), events)
	}
	for i, expected := range c.Expect {
		check(t, fmt.Sprint(i), expected, events[i])
	}
}

func liveEvent(t *testing.T, event guard.LiveEvent) map[string]any {
	text, err := protojson.Marshal(event.Reply)
	var reply map[string]any
	if err == nil {
		err = json.Unmarshal(text, &reply)
	}
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"text": event.Cleared, "reply": reply}
}

func TestACodePointThatIsCutIsSentWhole(t *testing.T) {
	p := readPlan(t)
	client, err := guard.NewClient(p.Servers["faults"], guard.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	answer := "Für 8 Minuten \U0001F95A."
	for _, c := range []struct{ answer, field string }{{answer, ""}, {answer[:2], "text"}} {
		texts := make(chan string, len(c.answer))
		for i := range len(c.answer) {
			texts <- c.answer[i : i+1]
		}
		close(texts)
		start := &guardpb.LiveStart{Request: guard.Prompt("How do I boil an egg?")}
		shown := ""
		for event, err := range client.Live(context.Background(), start, texts) {
			if failed, is := err.(*guard.Error); is {
				if failed.Violations[0].Field != c.field {
					t.Fatal(failed)
				}
				break
			}
			shown += event.Cleared
		}
		if c.field == "" && shown != c.answer {
			t.Fatalf("shown was %q", shown)
		}
	}
}
