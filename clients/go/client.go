// Package guard is the client of Qwen3Guard Server: a conversation in, a typed verdict out.
//
// If a conversation can't be judged, the result is an *Error and never a verdict. The caller
// chooses whether to fail open or closed.
package guard

import (
	"context"
	"crypto/tls"
	_ "embed"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"qwen3guard.internal/clients/go/guardpb"
)

// serviceConfig sets round robin over the target's addresses and retries after UNAVAILABLE.
//
//go:embed service_config.json
var serviceConfig string

const defaultTimeout = 10 * time.Second

// Client connects to one target. It is safe for concurrent use; create one and reuse it.
type Client struct {
	connection *grpc.ClientConn
	service    guardpb.ModerationServiceClient
	timeout    time.Duration
	security   *security
}

type settings struct {
	credentials credentials.TransportCredentials
	timeout     time.Duration
	dial        []grpc.DialOption
	key         string
}

// Option changes how a client connects.
type Option func(*settings)

// WithTLS replaces the default, TLS with the system's authorities. Use it for other authorities or
// for a client certificate.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) { s.credentials = credentials.NewTLS(config) }
}

// WithInsecure connects in plain text. Use it on loopback, or where a service mesh encrypts.
func WithInsecure() Option {
	return func(s *settings) { s.credentials = insecure.NewCredentials() }
}

// WithTimeout limits calls whose context has no deadline, including retries. The default is 10 s.
func WithTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.timeout = timeout }
}

// WithKey sends an API key of the server's with every call.
func WithKey(key string) Option {
	return func(s *settings) { s.key = strings.TrimSpace(key) } // a file's last line has an end
}

// WithDialOptions passes options on to gRPC, such as interceptors.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.dial = append(s.dial, options...) }
}

// NewClient connects in the background to a gRPC target such as "localhost:50051" or
// "dns:///guard:50051". Calls use the target's addresses in turn.
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
	if s.key != "" {
		dial = append(dial, grpc.WithPerRPCCredentials(apiKey(s.key)))
	}
	connection, err := grpc.NewClient(target, dial...)
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	service := guardpb.NewModerationServiceClient(connection)
	plain := s.credentials.Info().SecurityProtocol == "insecure"
	return &Client{connection, service, s.timeout, newSecurity(target, plain)}, nil
}

// apiKey goes with every call, also in plain text: on loopback, or where a service mesh encrypts.
type apiKey string

func (k apiKey) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(k)}, nil
}

func (k apiKey) RequireTransportSecurity() bool { return false }

// Close ends the connection and the calls in flight on it.
func (c *Client) Close() error { return c.connection.Close() }

// Moderate judges one conversation; [Prompt] and [Reply] build the usual requests. It waits and
// retries while the server is overloaded and the deadline allows. The error is an *Error.
func (c *Client) Moderate(
	ctx context.Context, request *guardpb.ModerateRequest,
) (*guardpb.ModerateResponse, error) {
	if refused := notText(request); refused != nil {
		return nil, refused
	}
	return withRetries(ctx, c, func(ctx context.Context) (*guardpb.ModerateResponse, error) {
		return c.service.Moderate(ctx, request)
	})
}

// Outcome is the result of one request of a batch or stream: a response or an error.
type Outcome struct {
	Index    int // index of the request, from 0
	Response *guardpb.ModerateResponse
	Err      error // an *Error; nil if there is a response
}

// Batch judges up to 256 conversations in one call. It returns one outcome per request, in their
// order. The error is an *Error and concerns the whole batch.
func (c *Client) Batch(
	ctx context.Context, requests ...*guardpb.ModerateRequest,
) ([]Outcome, error) {
	items := make([]*guardpb.ModerateRequest, len(requests))
	refused := make([]error, len(requests))
	for index, request := range requests {
		items[index], refused[index] = checked(request)
	}
	batch := &guardpb.BatchModerateRequest{Items: items}
	reply, err := withRetries(
		ctx, c, func(ctx context.Context) (*guardpb.BatchModerateResponse, error) {
			return c.service.BatchModerate(ctx, batch)
		})
	if err != nil {
		return nil, err
	}
	outcomes := make([]Outcome, len(reply.Items))
	for index, item := range reply.Items {
		outcomes[index] = Outcome{Index: index, Response: item.GetResponse()}
		if refused[index] != nil {
			outcomes[index].Err = refused[index]
		} else if item.GetError() != nil {
			outcomes[index].Err = fromStatus(status.FromProto(item.GetError()))
		}
	}
	return outcomes, nil
}

// Prompt returns a request to judge what a user wrote.
func Prompt(text string) *guardpb.ModerateRequest {
	return Conversation(Message("user", text))
}

// Reply returns a request to judge what an assistant answered to a prompt.
func Reply(prompt, answer string) *guardpb.ModerateRequest {
	return Conversation(Message("user", prompt), Message("assistant", answer))
}

// Conversation returns a request to judge the last of several messages.
func Conversation(messages ...*guardpb.Message) *guardpb.ModerateRequest {
	return &guardpb.ModerateRequest{Conversation: messages}
}
