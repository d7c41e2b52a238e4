package qwen3guard.client;

import com.google.common.util.concurrent.FutureCallback;
import com.google.common.util.concurrent.Futures;
import com.google.common.util.concurrent.ListenableFuture;
import com.google.common.util.concurrent.MoreExecutors;
import io.grpc.Deadline;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/**
 * Repeats a call while the server is overloaded, until the deadline. gRPC itself retries
 * UNAVAILABLE, by the service config.
 */
final class Retry<T> {
  static final int MAX_ATTEMPTS = 5;

  private static final Duration RECONNECT_BACKOFF = Duration.ofMillis(100);

  /** Unless the server says more; as after UNAVAILABLE. */
  private static final Duration LONGEST_PAUSE = Duration.ofSeconds(2);

  private final Supplier<ListenableFuture<T>> call;
  private final Deadline deadline;
  private final Security security;
  private final CompletableFuture<T> result = new CompletableFuture<>();
  private int attempts;

  private Retry(Supplier<ListenableFuture<T>> call, Deadline deadline, Security security) {
    this.call = call;
    this.deadline = deadline;
    this.security = security;
  }

  /**
   * Makes a call, with retries. The future fails with a {@link GuardException}; cancelling it cancels
   * the call.
   */
  static <T> CompletableFuture<T> withRetries(
      Deadline deadline, Security security, Supplier<ListenableFuture<T>> call) {
    Retry<T> retry = new Retry<>(call, deadline, security);
    retry.attempt();
    return retry.result;
  }

  /**
   * Returns how long to wait after so many attempts. The server says how long one caller's turn
   * takes. All that were turned away come again, so it is doubled with each attempt.
   */
  static Duration afterOverload(GuardException error, int attempts) {
    Duration said = error.retryAfter();
    Duration doubled = said.multipliedBy(1L << (attempts - 1));
    Duration capped = doubled.compareTo(LONGEST_PAUSE) < 0 ? doubled : LONGEST_PAUSE;
    return jittered(said.compareTo(capped) > 0 ? said : capped);
  }

  /** Returns how long to wait after so many connections in a row that broke, of MAX_ATTEMPTS. */
  static Duration afterBroken(int failures) {
    return jittered(RECONNECT_BACKOFF.multipliedBy(1L << (failures - 1)));
  }

  /** Returns one to two times the delay, so that callers do not all retry at once. */
  private static Duration jittered(Duration delay) {
    return delay.plusNanos(ThreadLocalRandom.current().nextLong(delay.toNanos() + 1));
  }

  /** Runs the action after the delay, on another thread. */
  static void later(Duration delay, Runnable action) {
    CompletableFuture.delayedExecutor(delay.toNanos(), TimeUnit.NANOSECONDS).execute(action);
  }

  private void attempt() {
    if (result.isDone()) {
      return;
    }
    attempts++;
    ListenableFuture<T> sent = call.get();
    result.whenComplete(
        (reply, error) -> {
          if (result.isCancelled()) {
            sent.cancel(true);
          }
        });
    Futures.addCallback(
        sent,
        new FutureCallback<T>() {
          @Override
          public void onSuccess(T reply) {
            result.complete(reply);
          }

          @Override
          public void onFailure(Throwable thrown) {
            failed(GuardException.of(thrown));
          }
        },
        MoreExecutors.directExecutor());
  }

  private void failed(GuardException error) {
    Duration delay = afterOverload(error, attempts);
    boolean inTime = deadline.timeRemaining(TimeUnit.NANOSECONDS) > delay.toNanos();
    if (error.overloaded() && attempts < MAX_ATTEMPTS && inTime) {
      later(delay, this::attempt);
    } else {
      security.explain(error, result::completeExceptionally);
    }
  }
}
