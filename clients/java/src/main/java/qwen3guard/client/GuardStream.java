package qwen3guard.client;

import io.grpc.Channel;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Phaser;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import qwen3guard.v1.ModerateRequest;
import qwen3guard.v1.ModerateResponse;
import qwen3guard.v1.ModerationServiceGrpc;
import qwen3guard.v1.StreamModerateRequest;
import qwen3guard.v1.StreamModerateResponse;

/**
 * Judges many conversations over one stream, with up to 64 in flight. Threads may share it.
 *
 * <p>A request that meets an overload is sent again later. If a server stops or dies, its requests
 * without an answer are sent to another one. The server limits the time of each request, and the
 * stream's own timeout does if it has one.
 */
public final class GuardStream implements AutoCloseable {
  private static final int WINDOW = 64; // requests in flight; the server reads no more

  private final ModerationServiceGrpc.ModerationServiceStub stub;
  private final Security security;
  private final Optional<Duration> itemTimeout;
  private final Semaphore window = new Semaphore(WINDOW);
  private final Phaser open = new Phaser(1); // one party for each future that is not done, and close
  // The stream's monitor guards the fields below.
  private Connection connection; // null while there is none
  private long sent;
  private int failures; // connections in a row that broke without an answer
  private boolean ended; // closed or cancelled by the caller

  GuardStream(Channel channel, Security security, Optional<Duration> itemTimeout) {
    stub = ModerationServiceGrpc.newStub(channel);
    this.security = security;
    this.itemTimeout = itemTimeout;
  }

  private static final class Item {
    final ModerateRequest request;
    final CompletableFuture<ModerateResponse> answer = new CompletableFuture<>();
    int overloaded;

    Item(ModerateRequest request) {
      this.request = request;
    }
  }

  /**
   * Sends a request; waits while 64 are in flight. The future fails with a {@link GuardException}.
   */
  public CompletableFuture<ModerateResponse> moderate(ModerateRequest request)
      throws InterruptedException {
    Optional<GuardException> refusal = Texts.refusal(request);
    if (refusal.isPresent()) {
      return CompletableFuture.failedFuture(refusal.get());
    }
    window.acquire();
    Item item = new Item(request);
    open.register();
    item.answer.whenComplete((response, error) -> open.arriveAndDeregister());
    CompletableFuture<ModerateResponse> answer =
        itemTimeout.map(timeout -> limited(item.answer, timeout)).orElse(item.answer);
    send(item);
    return answer;
  }

  private static CompletableFuture<ModerateResponse> limited(
      CompletableFuture<ModerateResponse> answer, Duration timeout) {
    String message = "no verdict within the " + timeout.toMillis() + " ms of a stream's item";
    return answer
        .orTimeout(timeout.toNanos(), TimeUnit.NANOSECONDS)
        .exceptionallyCompose(
            error ->
                CompletableFuture.failedFuture(
                    error instanceof TimeoutException
                        ? GuardException.of(Status.Code.DEADLINE_EXCEEDED, message, error)
                        : error));
  }

  /** Waits until every request is answered or timed out. */
  @Override
  public void close() {
    open.arriveAndAwaitAdvance();
    synchronized (this) {
      ended = true;
      if (connection == null) {
        return;
      }
      if (connection.inFlight.isEmpty()) {
        connection.requests.onCompleted();
      } else { // what timed out
        connection.requests.cancel("not waited for any more", null);
      }
      connection = null;
    }
  }

  /** Cancels the requests in flight: their futures fail with CANCELLED. */
  public synchronized void cancel() {
    ended = true;
    if (connection != null) {
      connection.requests.cancel("cancelled by the caller", null);
    }
  }

  private synchronized void send(Item item) {
    if (item.answer.isDone()) {
      window.release(); // it timed out before it could be sent again
      return;
    }
    if (ended) {
      fail(item, GuardException.of(Status.Code.CANCELLED, "the stream is closed", null));
      return;
    }
    if (connection == null) {
      connection = new Connection();
      stub.streamModerate(connection);
    }
    String id = Long.toString(sent++);
    connection.inFlight.put(id, item);
    connection.requests.onNext(
        StreamModerateRequest.newBuilder().setId(id).setRequest(item.request).build());
  }

  private void fail(Item item, GuardException error) {
    window.release();
    item.answer.completeExceptionally(error);
  }

  /** Sends a broken connection's requests over the next one, or fails them with its error. */
  private void broken(Connection broken, GuardException error) {
    List<Item> unanswered;
    boolean retry;
    int failed;
    synchronized (this) {
      if (connection == broken) {
        connection = null;
      }
      unanswered = List.copyOf(broken.inFlight.values());
      broken.inFlight.clear();
      failed = ++failures;
      retry = error.code() == Status.Code.UNAVAILABLE && failed < Retry.MAX_ATTEMPTS;
    }
    if (retry) { // only then is the wait a number that a duration can be
      Retry.later(Retry.afterBroken(failed), () -> unanswered.forEach(this::send));
    } else {
      security.explain(error, explained -> unanswered.forEach(item -> fail(item, explained)));
    }
  }

  private final class Connection
      implements ClientResponseObserver<StreamModerateRequest, StreamModerateResponse> {
    final Map<String, Item> inFlight = new HashMap<>(); // guarded by the stream's monitor
    ClientCallStreamObserver<StreamModerateRequest> requests;

    @Override
    public void beforeStart(ClientCallStreamObserver<StreamModerateRequest> requests) {
      this.requests = requests;
    }

    @Override
    public void onNext(StreamModerateResponse answer) {
      Item item;
      synchronized (GuardStream.this) {
        item = inFlight.remove(answer.getId());
        failures = 0;
      }
      if (item == null) {
        return;
      }
      if (!answer.hasError()) {
        window.release();
        item.answer.complete(answer.getResponse());
        return;
      }
      GuardException error = GuardException.of(answer.getError());
      if (error.overloaded() && ++item.overloaded < Retry.MAX_ATTEMPTS) {
        Retry.later(Retry.afterOverload(error, item.overloaded), () -> send(item));
      } else {
        fail(item, error);
      }
    }

    @Override
    public void onError(Throwable thrown) {
      broken(this, GuardException.of(thrown));
    }

    @Override
    public void onCompleted() {
      broken(this, GuardException.of(Status.Code.UNAVAILABLE, "the server ended the stream", null));
    }
  }
}
