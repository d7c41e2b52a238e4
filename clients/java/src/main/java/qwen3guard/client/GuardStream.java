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
import java.util.concurrent.Semaphore;
import qwen3guard.v1.ModerateRequest;
import qwen3guard.v1.ModerateResponse;
import qwen3guard.v1.ModerationServiceGrpc;
import qwen3guard.v1.StreamModerateRequest;
import qwen3guard.v1.StreamModerateResponse;

/**
 * Judges many conversations over one stream, with up to 64 in flight. Threads may share it.
 *
 * <p>A request that meets an overload is sent again later. If a server stops or dies, its requests
 * without an answer are sent to another one. The server limits the time of each request.
 */
public final class GuardStream implements AutoCloseable {
  private static final int WINDOW = 64; // requests in flight; the server reads no more
  private static final Duration RECONNECT_BACKOFF = Duration.ofMillis(100);

  private final ModerationServiceGrpc.ModerationServiceStub stub;
  private final Semaphore window = new Semaphore(WINDOW);
  // The stream's monitor guards the fields below.
  private Connection connection; // null while there is none
  private long sent;
  private int failures; // connections in a row that broke without an answer
  private boolean ended; // closed or cancelled by the caller

  GuardStream(Channel channel) {
    stub = ModerationServiceGrpc.newStub(channel);
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
    send(item);
    return item.answer;
  }

  /** Waits until every request is answered. */
  @Override
  public void close() {
    window.acquireUninterruptibly(WINDOW);
    synchronized (this) {
      ended = true;
      if (connection != null) {
        connection.requests.onCompleted();
        connection = null;
      }
    }
    window.release(WINDOW);
  }

  /** Cancels the requests in flight: their futures fail with CANCELLED. */
  public synchronized void cancel() {
    ended = true;
    if (connection != null) {
      connection.requests.cancel("cancelled by the caller", null);
    }
  }

  private synchronized void send(Item item) {
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
    Duration backoff;
    synchronized (this) {
      if (connection == broken) {
        connection = null;
      }
      unanswered = List.copyOf(broken.inFlight.values());
      broken.inFlight.clear();
      backoff = Retry.jittered(RECONNECT_BACKOFF.multipliedBy(1L << failures));
      failures++;
      retry = error.code() == Status.Code.UNAVAILABLE && failures < Retry.MAX_ATTEMPTS;
    }
    if (retry) {
      Retry.later(backoff, () -> unanswered.forEach(this::send));
    } else {
      unanswered.forEach(item -> fail(item, error));
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
        Retry.later(Retry.jittered(error.retryAfter()), () -> send(item));
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
