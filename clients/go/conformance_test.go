package guard_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	guard "qwen3guard.internal/clients/go"
	"qwen3guard.internal/clients/go/guardpb"
)

// plan is the file that tests/conformance writes for each language's runner.
type plan struct {
	Servers   map[string]string
	Authority string // PEM file of the authority that signed the certificate of server "tls"
	Passed    string // file to write the names of the passed cases to
	Cases     []testCase
}

type testCase struct {
	Name        string
	Server      string
	Call        string
	Requests    []json.RawMessage
	TimeoutS    float64 `json:"timeout_s"`
	CancelAfter float64 `json:"cancel_after_s"`
	LeaveAfter  int     `json:"leave_after"`
	TokenKiB    int     `json:"token_kib"`
	QuietS      float64 `json:"quiet_s"`
	ItemTimeout float64 `json:"item_timeout_s"`
	TLS         bool    `json:"tls"`
	Metadata    map[string]string
	Key         string
	Expect      []map[string]any
	Order       []int
	Start       json.RawMessage
	Texts       []string
	Ends        map[string]any
}

func TestConformance(t *testing.T) {
	p := readPlan(t)
	var passed []string
	for _, c := range p.Cases {
		if t.Run(c.Name, func(t *testing.T) { c.run(t, p) }) {
			passed = append(passed, c.Name)
		}
	}
	names, _ := json.Marshal(passed)
	if err := os.WriteFile(p.Passed, names, 0o600); err != nil {
		t.Fatal(err)
	}
}

// readPlan skips the test where there is no plan.
func readPlan(t *testing.T) *plan {
	path := os.Getenv("GUARD_CONFORMANCE")
	if path == "" {
		t.Skip("needs servers: `make clients-test` runs it")
	}
	p := new(plan)
	read, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(read, p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (c *testCase) run(t *testing.T, p *plan) {
	security := guard.WithInsecure()
	if c.TLS {
		authorities := x509.NewCertPool()
		if pem, err := os.ReadFile(p.Authority); err != nil || !authorities.AppendCertsFromPEM(pem) {
			t.Fatal(err)
		}
		security = guard.WithTLS(&tls.Config{RootCAs: authorities})
	}
	client, err := guard.NewClient(p.Servers[c.Server], security, guard.WithKey(c.Key))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), seconds(c.TimeoutS))
	defer cancel()
	if c.TokenKiB > 0 {
		token := strings.Repeat("x", c.TokenKiB<<10)
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	if c.CancelAfter > 0 {
		time.AfterFunc(seconds(c.CancelAfter), cancel)
	}
	for key, value := range c.Metadata {
		ctx = metadata.AppendToOutgoingContext(ctx, key, value)
	}
	if c.Call == "live" {
		c.live(ctx, t, client)
		return
	}
	requests := make([]*guardpb.ModerateRequest, len(c.Requests))
	for i, raw := range c.Requests {
		if requests[i], err = request(raw); err != nil {
			break
		}
	}
	var outcomes []guard.Outcome
	if err == nil {
		outcomes, err = c.call(ctx, client, requests)
	}
	c.checkEnd(t, err)
	for i, index := range c.Order {
		if i >= len(outcomes) || outcomes[i].Index != index {
			t.Fatalf("outcomes came in the order %v", outcomes)
		}
	}
	if c.LeaveAfter > 0 {
		return
	}
	slices.SortFunc(outcomes, func(a, b guard.Outcome) int { return a.Index - b.Index })
	if len(outcomes) != len(c.Expect) {
		t.Fatalf("%d outcomes, expected %d", len(outcomes), len(c.Expect))
	}
	for i, expected := range c.Expect {
		check(t, fmt.Sprint(i), expected, outcome(t, outcomes[i]))
	}
}

func (c *testCase) checkEnd(t *testing.T, err error) {
	t.Helper()
	if c.Ends != nil {
		var failed *guard.Error
		if !errors.As(err, &failed) {
			t.Fatalf("the call ended with %v", err)
		}
		check(t, "ends", c.Ends, describe(failed))
	} else if err != nil {
		t.Fatal(err)
	}
}

// request reads a request in JSON, its wire bytes as a string in base64, or a chat's messages.
func request(raw json.RawMessage) (*guardpb.ModerateRequest, error) {
	if raw[0] == '[' {
		return guard.Chat(raw)
	}
	read := new(guardpb.ModerateRequest)
	var wire []byte
	if json.Unmarshal(raw, &wire) == nil {
		return read, proto.Unmarshal(wire, read)
	}
	return read, protojson.Unmarshal(raw, read)
}

func (c *testCase) call(
	ctx context.Context, client *guard.Client, requests []*guardpb.ModerateRequest,
) ([]guard.Outcome, error) {
	switch c.Call {
	case "moderate":
		reply, err := client.Moderate(ctx, requests[0])
		if err != nil {
			return nil, err
		}
		return []guard.Outcome{{Response: reply}}, nil
	case "batch":
		return client.Batch(ctx, requests...)
	case "stream":
		channel := make(chan *guardpb.ModerateRequest, len(requests))
		go func() { // the last request comes after the time in which the stream is quiet
			for i, request := range requests {
				if i == len(requests)-1 {
					time.Sleep(seconds(c.QuietS))
				}
				channel <- request
			}
			close(channel)
		}()
		var outcomes []guard.Outcome
		var options []guard.StreamOption
		if c.ItemTimeout > 0 {
			options = append(options, guard.ItemTimeout(seconds(c.ItemTimeout)))
		}
		for outcome, err := range client.Stream(ctx, channel, options...) {
			if err != nil {
				return outcomes, err
			}
			outcomes = append(outcomes, outcome)
			if len(outcomes) == c.LeaveAfter {
				break
			}
		}
		return outcomes, nil
	}
	return nil, fmt.Errorf("no call %q", c.Call)
}

func outcome(t *testing.T, o guard.Outcome) map[string]any {
	if o.Err != nil {
		var failed *guard.Error
		if !errors.As(o.Err, &failed) {
			t.Fatal(o.Err)
		}
		return map[string]any{"error": describe(failed)}
	}
	text, err := protojson.Marshal(o.Response)
	if err != nil {
		t.Fatal(err)
	}
	var response map[string]any
	if err := json.Unmarshal(text, &response); err != nil {
		t.Fatal(err)
	}
	return map[string]any{"response": response, "printed": fmt.Sprint(o.Response.Action)}
}

// codeNames are gRPC's own names; Go spells them differently.
var codeNames = map[codes.Code]string{
	codes.InvalidArgument:   "INVALID_ARGUMENT",
	codes.PermissionDenied:  "PERMISSION_DENIED",
	codes.Unauthenticated:   "UNAUTHENTICATED",
	codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
	codes.DeadlineExceeded:  "DEADLINE_EXCEEDED",
	codes.Unavailable:       "UNAVAILABLE",
	codes.Internal:          "INTERNAL",
	codes.Canceled:          "CANCELLED",
}

func describe(e *guard.Error) map[string]any {
	fields := []any{}
	for _, violation := range e.Violations {
		fields = append(fields, violation.Field)
	}
	return map[string]any{
		"code": codeNames[e.Code], "reason": e.Reason, "fields": fields, "retry": e.RetryAfter > 0,
		"says": e.Message,
	}
}

// check compares the expected part of a result: null means absent, "*" present, "a|b" either.
func check(t *testing.T, at string, expected, got any) {
	t.Helper()
	switch expected := expected.(type) {
	case map[string]any:
		got, is := got.(map[string]any)
		if !is {
			t.Errorf("%s: got %v", at, got)
		}
		for key, value := range expected {
			if key != "says" {
				check(t, at+"."+key, value, got[key])
			} else if !strings.Contains(got[key].(string), value.(string)) {
				t.Errorf("%s: says %q", at, got[key])
			}
		}
	case string:
		if expected == "*" && got != nil {
			return
		}
		if text, is := got.(string); is && slices.Contains(strings.Split(expected, "|"), text) {
			return
		}
		if expected != got {
			t.Errorf("%s: expected %q, got %v", at, expected, got)
		}
	default:
		if !reflect.DeepEqual(expected, got) {
			t.Errorf("%s: expected %v, got %v", at, expected, got)
		}
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
