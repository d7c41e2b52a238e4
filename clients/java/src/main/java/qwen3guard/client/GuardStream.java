package qwen3guard.client;

import io.grpc.Channel;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Semaphore;
import qwen3guard.v1.ModerateRequest;
import qwen3guard.v1.ModerateResponse;
import qwen3guard.v1.ModerationServiceGrpc;
import qwen3guard.v1.StreamModerateRequest;
import qwen3guard.v1.StreamModerateResponse;

/**
 * Judges many conversations over one stream, up to 64 at a time, for any number of threads.
 *
 * <p>What meets an overload is sent again later; what has no answer when a server stops or dies is
 * sent again to another one. The server bounds the time of each request.
 */
public final class GuardStream implements AutoCloseable {
  private static final int WINDOW = 64; // the server reads no further
  private static final Duration RECONNECT_BACKOFF = Duration.ofMillis(100);

  private final ModerationServiceGrpc.ModerationServiceStub stub;
  private final Semaphore room = new Semaphore(WINDOW);
  private Connection connection; // null while there is none; guarded by this, as is what follows
  private long sent;
  private int failures; // connections that broke without an answer between them
  private boolean ended; // by the caller

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

  /** Waits while 64 are in flight. The future fails with a {@link GuardException}. */
  public CompletableFuture<ModerateResponse> moderate(ModerateRequest request)
      throws InterruptedException {
    room.acquire();
    Item item = new Item(request);
    send(item);
    return item.answer;
  }

  /** Waits until everything is answered. */
  @Override
  public void close() {
    room.acquireUninterruptibly(WINDOW);
    synchronized (this) {
      ended = true;
      if (connection != null) {
        connection.requests.onCompleted();
        connection = null;
      }
    }
    room.release(WINDOW);
  }

  /** Gives up what is in flight: its futures fail with CANCELLED. */
  public synchronized void cancel() {
    ended = true;
    if (connection != null) {
      connection.requests.cancel("given up by the caller", null);
    }
  }

  private synchronized void send(Item item) {
    if (ended) {
      fail(item, GuardException.of(Status.Code.CANCELLED, "the stream was ended", null));
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
    room.release();
    item.answer.completeExceptionally(error);
  }

  /** What a connection left behind is sent over the next one, or fails with it. */
  private void broken(Connection broken, GuardException error) {
    List<Item> left;
    boolean again;
    Duration backoff;
    synchronized (this) {
      if (connection == broken) {
        connection = null;
      }
      left = List.copyOf(broken.inFlight.values());
      broken.inFlight.clear();
      backoff = Retry.jittered(RECONNECT_BACKOFF.multipliedBy(1L << failures));
      failures++;
      again = error.code() == Status.Code.UNAVAILABLE && failures < Retry.MAX_ATTEMPTS;
    }
    if (again) {
      Retry.later(backoff, () -> left.forEach(this::send));
    } else {
      left.forEach(item -> fail(item, error));
    }
  }

  private final class Connection
      implements ClientResponseObserver<StreamModerateRequest, StreamModerateResponse> {
    final Map<String, Item> inFlight = new HashMap<>(); // guarded by the stream
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
        room.release();
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
