package qwen3guard.client;

import com.google.protobuf.ByteString;
import io.grpc.Channel;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import qwen3guard.v1.LiveEnd;
import qwen3guard.v1.LiveStart;
import qwen3guard.v1.LiveState;
import qwen3guard.v1.ModerateLiveRequest;
import qwen3guard.v1.ModerateLiveResponse;
import qwen3guard.v1.ModerationServiceGrpc;

/**
 * Judges an answer while it is written: the model's thread sends its text, another one takes the
 * events. The last event has the verdict of the whole answer, or of the beginning that stopped it.
 *
 * <p>If the server stops or dies, another one takes the answer up. Whoever shows only what events
 * clear shows nothing that was not judged.
 */
public final class LiveGuard implements Iterable<LiveEvent>, AutoCloseable {
  private static final int PART_CHARACTERS = 16_384; // a message has at most 65,536 bytes

  private final ModerationServiceGrpc.ModerationServiceStub stub;
  private final Security security;
  private final BlockingQueue<Object> news = new LinkedBlockingQueue<>(); // events and an exception
  // The object's monitor guards the fields below.
  private final LiveStart.Builder start; // with what is cleared by now
  private ByteString text = ByteString.EMPTY; // all of the answer
  private String halved = ""; // half a surrogate pair whose other half has not come
  private boolean ended; // the answer is whole
  private boolean over; // after the last event, an exception, or close
  private int failures; // connections in a row that broke without a reply
  private Connection connection;

  LiveGuard(Channel channel, Security security, LiveStart start) {
    stub = ModerationServiceGrpc.newStub(channel);
    this.security = security;
    this.start = start.toBuilder();
    Texts.refusal(start.getRequest())
        .ifPresent(
            refusal -> {
              throw refusal;
            });
    connect();
  }

  /**
   * Sends what the model wrote next. A surrogate pair may be cut. Does nothing after the last event.
   *
   * @throws GuardException if it is no text
   */
  public synchronized void send(String written) {
    String whole = halved + written;
    int last = whole.length() - 1;
    halved = last >= 0 && Character.isHighSurrogate(whole.charAt(last)) ? whole.substring(last) : "";
    whole = whole.substring(0, whole.length() - halved.length());
    if (!StandardCharsets.UTF_8.newEncoder().canEncode(whole)) {
      throw Texts.refused("text", Texts.HALF);
    }
    text = text.concat(ByteString.copyFromUtf8(whole));
    if (connection != null && !over) {
      connection.send(whole);
    }
  }

  /** The answer is whole. */
  public synchronized void end() {
    if (!halved.isEmpty()) {
      throw Texts.refused("text", Texts.HALF);
    }
    ended = true;
    if (connection != null && !over) {
      connection.end();
    }
  }

  /** Abandons the answer, unless the last event has come. */
  @Override
  public synchronized void close() {
    fail(GuardException.of(Status.Code.CANCELLED, "closed by the caller", null));
  }

  /**
   * The events as they come, once. {@code hasNext} and {@code next} wait; they throw a {@link
   * GuardException} if the answer can't be judged to its end.
   */
  @Override
  public Iterator<LiveEvent> iterator() {
    return new Iterator<>() {
      private LiveEvent next;
      private boolean last;

      @Override
      public boolean hasNext() {
        if (next == null && !last) {
          next = take();
          last = next.stopped() || next.finished();
        }
        return next != null;
      }

      @Override
      public LiveEvent next() {
        if (!hasNext()) {
          throw new NoSuchElementException();
        }
        LiveEvent event = next;
        next = null;
        return event;
      }
    };
  }

  private LiveEvent take() {
    try {
      Object came = news.take();
      if (came instanceof GuardException error) {
        throw error;
      }
      return (LiveEvent) came;
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw GuardException.of(Status.Code.CANCELLED, "interrupted", interrupted);
    }
  }

  private synchronized void connect() {
    if (over) {
      return;
    }
    connection = new Connection();
    stub.moderateLive(connection);
    connection.requests.onNext(ModerateLiveRequest.newBuilder().setStart(start).build());
    connection.send(text.toStringUtf8());
    if (ended) {
      connection.end();
    }
  }

  private synchronized void received(Connection from, ModerateLiveResponse reply) {
    if (from != connection || over) {
      return;
    }
    failures = 0;
    if (reply.getState() == LiveState.LIVE_STATE_PROMPT) {
      start.setJudgePrompt(false); // it is, and is not judged again
    }
    int before = (int) start.getClearedBytes();
    start.setClearedBytes(reply.getClearedBytes());
    String cleared = text.substring(before, (int) reply.getClearedBytes()).toStringUtf8();
    LiveEvent event = new LiveEvent(cleared, reply);
    over = event.stopped() || event.finished();
    news.add(event);
  }

  /** Opens the next connection, or fails with the error of the one that broke. */
  private synchronized void broken(Connection from, GuardException error) {
    if (from != connection || over) {
      return;
    }
    connection = null;
    failures++;
    boolean away = error.code() == Status.Code.UNAVAILABLE;
    if ((away || error.overloaded()) && failures < Retry.MAX_ATTEMPTS) {
      Duration delay = away ? Retry.afterBroken(failures) : Retry.afterOverload(error, failures);
      Retry.later(delay, this::connect);
    } else {
      security.explain(error, this::fail);
    }
  }

  private synchronized void fail(GuardException error) {
    if (over) {
      return;
    }
    over = true;
    news.add(error);
    if (connection != null) {
      connection.requests.cancel("abandoned", null);
    }
  }

  private final class Connection
      implements ClientResponseObserver<ModerateLiveRequest, ModerateLiveResponse> {
    ClientCallStreamObserver<ModerateLiveRequest> requests;

    @Override
    public void beforeStart(ClientCallStreamObserver<ModerateLiveRequest> requests) {
      this.requests = requests;
    }

    void send(String part) {
      for (int from = 0, to; from < part.length(); from = to) {
        to = Math.min(from + PART_CHARACTERS, part.length());
        if (Character.isHighSurrogate(part.charAt(to - 1))) {
          to--;
        }
        requests.onNext(ModerateLiveRequest.newBuilder().setText(part.substring(from, to)).build());
      }
    }

    void end() {
      requests.onNext(
          ModerateLiveRequest.newBuilder().setEnd(LiveEnd.getDefaultInstance()).build());
      requests.onCompleted();
    }

    @Override
    public void onNext(ModerateLiveResponse reply) {
      received(this, reply);
    }

    @Override
    public void onError(Throwable thrown) {
      broken(this, GuardException.of(thrown));
    }

    @Override
    public void onCompleted() {
      String message = "the server ended the answer early";
      broken(this, GuardException.of(Status.Code.UNAVAILABLE, message, null));
    }
  }
}
