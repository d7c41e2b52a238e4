// Package guard is the client of Qwen3Guard Server: a conversation in, a typed verdict out.
//
// A conversation that could not be judged is an *Error and never a verdict; whether to fail open
// or closed is the caller's choice.
package guard

import (
	"context"
	"crypto/tls"
	_ "embed"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"qwen3guard/clients/go/guardpb"
)

// Round robin over the target's addresses, and retries of what failed with UNAVAILABLE.
//
//go:embed service_config.json
var serviceConfig string

const defaultTimeout = 10 * time.Second

// Client asks one target. It is safe for concurrent use; make one and keep it.
type Client struct {
	connection *grpc.ClientConn
	service    guardpb.ModerationServiceClient
	timeout    time.Duration
}

type settings struct {
	credentials credentials.TransportCredentials
	timeout     time.Duration
	dial        []grpc.DialOption
}

// Option changes how a client connects.
type Option func(*settings)

// WithTLS replaces the default, TLS by the system's authorities: other authorities, or a
// certificate of the client's own.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) { s.credentials = credentials.NewTLS(config) }
}

// WithInsecure connects in plain text: for loopback, or where a mesh encrypts.
func WithInsecure() Option {
	return func(s *settings) { s.credentials = insecure.NewCredentials() }
}

// WithTimeout bounds calls whose context has no deadline, retries included. The default is 10 s.
func WithTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.timeout = timeout }
}

// WithDialOptions passes options on to gRPC, such as interceptors.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.dial = append(s.dial, options...) }
}

// NewClient connects in the background to a gRPC target such as "localhost:50051" or
// "dns:///guard:50051", all of whose addresses it uses in turn.
func NewClient(target string, options ...Option) (*Client, error) {
	s := settings{credentials: credentials.NewTLS(&tls.Config{}), timeout: defaultTimeout}
	for _, option := range options {
		option(&s)
	}
	dial := append([]grpc.DialOption{
		grpc.WithTransportCredentials(s.credentials),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:    30 * time.Second,
			Timeout: 10 * time.Second,
		}),
	}, s.dial...)
	connection, err := grpc.NewClient(target, dial...)
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	service := guardpb.NewModerationServiceClient(connection)
	return &Client{connection: connection, service: service, timeout: s.timeout}, nil
}

// Close ends the connection and what is in flight on it.
func (c *Client) Close() error { return c.connection.Close() }

// Moderate judges one conversation; see [Prompt] and [Reply] for the usual ones. It waits and
// tries again when the server is overloaded, as long as the deadline allows. The error is an
// *Error.
func (c *Client) Moderate(
	ctx context.Context, request *guardpb.ModerateRequest,
) (*guardpb.ModerateResponse, error) {
	return patiently(ctx, c.timeout, func(ctx context.Context) (*guardpb.ModerateResponse, error) {
		return c.service.Moderate(ctx, request)
	})
}

// Outcome is the answer to one request of several: a verdict, or the reason why there is none.
type Outcome struct {
	Index    int // of the request, from 0
	Response *guardpb.ModerateResponse
	Err      *Error // nil if there is a response
}

// Batch judges up to 256 conversations in one call, and gives as many outcomes in their order.
// The error is an *Error, and of the batch as a whole.
func (c *Client) Batch(
	ctx context.Context, requests ...*guardpb.ModerateRequest,
) ([]Outcome, error) {
	batch := &guardpb.BatchModerateRequest{Items: requests}
	reply, err := patiently(
		ctx, c.timeout, func(ctx context.Context) (*guardpb.BatchModerateResponse, error) {
			return c.service.BatchModerate(ctx, batch)
		})
	if err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, len(reply.Items))
	for index, item := range reply.Items {
		outcomes[index] = Outcome{Index: index, Response: item.GetResponse()}
		if item.GetError() != nil {
			outcomes[index].Err = fromStatus(status.FromProto(item.GetError()))
		}
	}
	return outcomes, nil
}

// Prompt is the request to judge what a user wrote.
func Prompt(text string) *guardpb.ModerateRequest {
	return Conversation(&guardpb.Message{Role: guardpb.Role_ROLE_USER, Content: text})
}

// Reply is the request to judge what an assistant answered to a prompt.
func Reply(prompt, answer string) *guardpb.ModerateRequest {
	return Conversation(
		&guardpb.Message{Role: guardpb.Role_ROLE_USER, Content: prompt},
		&guardpb.Message{Role: guardpb.Role_ROLE_ASSISTANT, Content: answer},
	)
}

// Conversation is the request to judge the last of several messages.
func Conversation(messages ...*guardpb.Message) *guardpb.ModerateRequest {
	return &guardpb.ModerateRequest{Conversation: messages}
}
