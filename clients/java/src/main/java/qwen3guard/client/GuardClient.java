package qwen3guard.client;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptor;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import qwen3guard.v1.BatchModerateItem;
import qwen3guard.v1.BatchModerateRequest;
import qwen3guard.v1.LiveStart;
import qwen3guard.v1.ModerateRequest;
import qwen3guard.v1.ModerateResponse;
import qwen3guard.v1.ModerationServiceGrpc;

/**
 * The client of Qwen3Guard Server: a conversation in, a typed verdict out. Threads may share it;
 * create one and reuse it.
 *
 * <p>If a conversation can't be judged, the result is a {@link GuardException} and never a verdict.
 * The caller chooses whether to fail open or closed. Calls wait and retry while the server is
 * overloaded or unavailable and their timeout allows.
 */
public final class GuardClient implements AutoCloseable {
  private static final Duration DEFAULT_TIMEOUT = Duration.ofSeconds(10);
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

  private final ManagedChannel channel;
  private final ModerationServiceGrpc.ModerationServiceFutureStub stub;
  private final Duration timeout;
  private final boolean ownsChannel;
  private final Security security;

  private GuardClient(
      ManagedChannel channel, Security security, Duration timeout, boolean ownsChannel) {
    this.channel = channel;
    this.security = security;
    this.ownsChannel = ownsChannel;
    this.stub = ModerationServiceGrpc.newFutureStub(channel);
    this.timeout = timeout;
  }

  /** Connects in the background to a gRPC target. Calls use the target's addresses in turn. */
  public static final class Builder {
    private final String target;
    private ChannelCredentials credentials = TlsChannelCredentials.create();
    private Duration timeout = DEFAULT_TIMEOUT;
    private final List<ClientInterceptor> interceptors = new ArrayList<>();

    private Builder(String target) {
      this.target = target;
    }

    /** Replaces the default, TLS with the JDK's authorities. */
    public Builder credentials(ChannelCredentials credentials) {
      this.credentials = credentials;
      return this;
    }

    /** Connects in plain text. Use it on loopback, or where a service mesh encrypts. */
    public Builder insecure() {
      return credentials(InsecureChannelCredentials.create());
    }

    /** Limits each call, including retries. The default is 10 s. */
    public Builder timeout(Duration timeout) {
      this.timeout = timeout;
      return this;
    }

    /** Adds an interceptor, such as {@code MetadataUtils.newAttachHeadersInterceptor(headers)}. */
    public Builder intercept(ClientInterceptor interceptor) {
      interceptors.add(interceptor);
      return this;
    }

    /** Sends an API key of the server's with every call. */
    public Builder key(String key) {
      Metadata metadata = new Metadata();
      metadata.put(AUTHORIZATION, "Bearer " + key.strip()); // a file's last line has an end
      return intercept(MetadataUtils.newAttachHeadersInterceptor(metadata));
    }

    public GuardClient build() {
      ManagedChannel channel =
          Grpc.newChannelBuilder(target, credentials)
              .defaultServiceConfig(serviceConfig())
              .keepAliveTime(30, TimeUnit.SECONDS)
              .keepAliveTimeout(10, TimeUnit.SECONDS)
              .intercept(interceptors)
              .build();
      boolean plain = credentials instanceof InsecureChannelCredentials;
      return new GuardClient(channel, new Security(target, plain), timeout, true);
    }
  }

  /** Builds a client for a target such as {@code localhost:50051} or {@code dns:///guard:50051}. */
  public static Builder builder(String target) {
    return new Builder(target);
  }

  /**
   * Returns a client with another timeout that shares this connection. Only closing the client that
   * was built ends the connection.
   */
  public GuardClient withTimeout(Duration timeout) {
    return new GuardClient(channel, security, timeout, false);
  }

  /** Judges what a user wrote. */
  public ModerateResponse moderate(String prompt) {
    return moderate(Requests.prompt(prompt));
  }

  /** Judges one conversation; {@link Requests} builds the usual ones. */
  public ModerateResponse moderate(ModerateRequest request) {
    return join(moderateAsync(request));
  }

  /**
   * Judges one conversation. The future fails with a {@link GuardException}; cancelling it cancels
   * the call.
   */
  public CompletableFuture<ModerateResponse> moderateAsync(ModerateRequest request) {
    Optional<GuardException> refusal = Texts.refusal(request);
    if (refusal.isPresent()) {
      return CompletableFuture.failedFuture(refusal.get());
    }
    Deadline deadline = deadline();
    return Retry.withRetries(
        deadline, security, () -> stub.withDeadline(deadline).moderate(request));
  }

  /**
   * Judges up to 256 conversations in one call. Returns one outcome per request, in their order. An
   * exception concerns the whole batch.
   */
  public List<Outcome> batch(List<ModerateRequest> requests) {
    List<Optional<GuardException>> refusals = requests.stream().map(Texts::refusal).toList();
    BatchModerateRequest.Builder batch = BatchModerateRequest.newBuilder();
    for (int i = 0; i < requests.size(); i++) {
      // The server refuses an empty request, so the others keep their order.
      batch.addItems(
          refusals.get(i).isEmpty() ? requests.get(i) : ModerateRequest.getDefaultInstance());
    }
    Deadline deadline = deadline();
    var reply =
        join(
            Retry.withRetries(
                deadline,
                security,
                () -> stub.withDeadline(deadline).batchModerate(batch.build())));
    List<Outcome> outcomes = new ArrayList<>();
    for (BatchModerateItem item : reply.getItemsList()) {
      Optional<GuardException> refusal = refusals.get(outcomes.size());
      outcomes.add(refusal.map(error -> new Outcome(null, error)).orElseGet(() -> outcome(item)));
    }
    return outcomes;
  }

  /** Opens a pipelined stream. The client's timeout does not apply: the server limits each request. */
  public GuardStream stream() {
    return new GuardStream(channel, security, Optional.empty());
  }

  /**
   * Opens a pipelined stream. A request without a verdict in this time, retries included, fails with
   * DEADLINE_EXCEEDED, and the stream goes on.
   */
  public GuardStream stream(Duration itemTimeout) {
    return new GuardStream(channel, security, Optional.of(itemTimeout));
  }

  /** Judges an answer while it is written. The start has the conversation before it. */
  public LiveGuard live(LiveStart start) {
    return new LiveGuard(channel, security, start);
  }

  /** Ends the connection once its calls in flight are done, or after five seconds. */
  @Override
  public void close() {
    if (!ownsChannel) {
      return;
    }
    channel.shutdown();
    try {
      if (!channel.awaitTermination(5, TimeUnit.SECONDS)) {
        channel.shutdownNow();
      }
    } catch (InterruptedException interrupted) {
      channel.shutdownNow();
      Thread.currentThread().interrupt();
    }
  }

  private Deadline deadline() {
    return Deadline.after(timeout.toNanos(), TimeUnit.NANOSECONDS);
  }

  private static Outcome outcome(BatchModerateItem item) {
    return item.hasError()
        ? new Outcome(null, GuardException.of(item.getError()))
        : new Outcome(item.getResponse(), null);
  }

  private static <T> T join(CompletableFuture<T> future) {
    try {
      return future.get();
    } catch (ExecutionException failed) {
      throw GuardException.of(failed.getCause());
    } catch (InterruptedException interrupted) {
      future.cancel(true);
      Thread.currentThread().interrupt();
      throw GuardException.of(Status.Code.CANCELLED, "interrupted", interrupted);
    }
  }

  /** Sets round robin over the target's addresses and retries after UNAVAILABLE. */
  private static Map<String, ?> serviceConfig() {
    try (var stream = GuardClient.class.getResourceAsStream("service_config.json");
        var reader = new InputStreamReader(stream, StandardCharsets.UTF_8)) {
      return new Gson().fromJson(reader, new TypeToken<Map<String, Object>>() {});
    } catch (IOException unreadable) {
      throw new UncheckedIOException(unreadable);
    }
  }
}
