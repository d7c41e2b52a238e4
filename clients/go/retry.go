package guard

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
)

const (
	maxAttempts      = 5
	reconnectBackoff = 100 * time.Millisecond
	longestPause     = 2 * time.Second // unless the server says more; as after UNAVAILABLE
)

// withRetries makes a call and repeats it while the server is overloaded, until the deadline.
// gRPC itself retries UNAVAILABLE, by the service config.
func withRetries[T any](
	ctx context.Context, client *Client, call func(context.Context) (T, error),
) (T, error) {
	if _, hasDeadline := ctx.Deadline(); !hasDeadline {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, client.timeout)
		defer cancel()
	}
	for attempt := 1; ; attempt++ {
		reply, err := call(ctx)
		if err == nil {
			return reply, nil
		}
		failed := asError(err)
		if !overloaded(failed) || attempt == maxAttempts || !pause(ctx, afterOverload(failed, attempt)) {
			return reply, client.security.explained(ctx, failed)
		}
	}
}

// overloaded distinguishes an overload from a message that is too large, which has the same code
// but no RetryInfo.
func overloaded(err *Error) bool {
	return err.Code == codes.ResourceExhausted && err.RetryAfter > 0
}

// afterOverload returns how long to wait after so many attempts. The server says how long one
// caller's turn takes. All that were turned away come again, so it is doubled with each attempt.
func afterOverload(err *Error, attempts int) time.Duration {
	doubled := min(err.RetryAfter<<(attempts-1), longestPause)
	return jittered(max(err.RetryAfter, doubled))
}

// afterBroken returns how long to wait after so many connections in a row that broke.
func afterBroken(failures int) time.Duration {
	return jittered(reconnectBackoff << (failures - 1))
}

// jittered returns one to two times the delay, so that callers do not all retry at once.
func jittered(delay time.Duration) time.Duration {
	return delay + time.Duration(rand.Int64N(int64(delay)+1))
}

// pause waits for the delay. It returns false if the context ends first; at once if its deadline
// would pass during the wait.
func pause(ctx context.Context, delay time.Duration) bool {
	if deadline, hasDeadline := ctx.Deadline(); hasDeadline && time.Until(deadline) < delay {
		return false
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
