package guard

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
)

const maxAttempts = 5

// patiently calls, and calls again after an overload. The server's other ways to be unable are
// for the service config to retry.
func patiently[T any](
	ctx context.Context, timeout time.Duration, call func(context.Context) (T, error),
) (T, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	for attempt := 1; ; attempt++ {
		reply, err := call(ctx)
		if err == nil {
			return reply, nil
		}
		failed := asError(err)
		if !overloaded(failed) || attempt == maxAttempts || !pause(ctx, jittered(failed.RetryAfter)) {
			return reply, failed
		}
	}
}

// overloaded: a message that is too large has the same code, and no time to try again.
func overloaded(err *Error) bool {
	return err.Code == codes.ResourceExhausted && err.RetryAfter > 0
}

// jittered is one to two times as long, so that callers do not come back all at once.
func jittered(delay time.Duration) time.Duration {
	return delay + time.Duration(rand.Int64N(int64(delay)+1))
}

// pause waits, or says at once that the context ends before.
func pause(ctx context.Context, delay time.Duration) bool {
	if deadline, bounded := ctx.Deadline(); bounded && time.Until(deadline) < delay {
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
