package qwen3guard.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;

/** Says why there is no verdict. */
public final class GuardException extends RuntimeException {
  private final Status.Code code;
  private String reason = "";
  private Duration retryAfter = Duration.ZERO;
  private final List<Violation> violations = new ArrayList<>();

  /** One thing wrong with one field, such as {@code conversation[2].content}. */
  public record Violation(String field, String description) {}

  private GuardException(Status.Code code, String message, Throwable cause) {
    super(code + ": " + message, cause);
    this.code = code;
  }

  public Status.Code code() {
    return code;
  }

  /** The kind of error, such as {@code OVERLOADED}; empty if the server did not answer. */
  public String reason() {
    return reason;
  }

  /** The fields at fault; only with INVALID_ARGUMENT. */
  public List<Violation> violations() {
    return List.copyOf(violations);
  }

  /** How long to wait before a retry; zero unless the server is overloaded. */
  public Duration retryAfter() {
    return retryAfter;
  }

  /**
   * Whether the service, and not the request, is why there is no verdict in time. Fail open on these
   * only: what a request holds can cause every other error, so that its author would choose what
   * passes unjudged.
   */
  public boolean outage() {
    return code == Status.Code.UNAVAILABLE
        || code == Status.Code.DEADLINE_EXCEEDED
        || overloaded();
  }

  /** Distinguishes an overload from a message that is too large, which has no RetryInfo. */
  boolean overloaded() {
    return code == Status.Code.RESOURCE_EXHAUSTED && !retryAfter.isZero();
  }

  static GuardException of(Throwable thrown) {
    if (thrown instanceof GuardException known) {
      return known;
    }
    com.google.rpc.Status rich = StatusProto.fromThrowable(thrown);
    if (rich != null) {
      return of(rich, thrown);
    }
    Status status = Status.fromThrowable(thrown);
    return of(status.getCode(), String.valueOf(status.getDescription()), thrown);
  }

  static GuardException of(com.google.rpc.Status status) {
    return of(status, null);
  }

  static GuardException of(Status.Code code, String message, Throwable cause) {
    return new GuardException(code, message, cause);
  }

  private static GuardException of(com.google.rpc.Status status, Throwable cause) {
    Status.Code code = Status.fromCodeValue(status.getCode()).getCode();
    GuardException found = of(code, status.getMessage(), cause);
    try {
      for (Any detail : status.getDetailsList()) {
        found.read(detail);
      }
    } catch (InvalidProtocolBufferException unreadable) {
      found.addSuppressed(unreadable);
    }
    return found;
  }

  private void read(Any detail) throws InvalidProtocolBufferException {
    if (detail.is(ErrorInfo.class)) {
      reason = detail.unpack(ErrorInfo.class).getReason();
    } else if (detail.is(RetryInfo.class)) {
      var delay = detail.unpack(RetryInfo.class).getRetryDelay();
      retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
    } else if (detail.is(BadRequest.class)) {
      for (var wrong : detail.unpack(BadRequest.class).getFieldViolationsList()) {
        violations.add(new Violation(wrong.getField(), wrong.getDescription()));
      }
    }
  }
}
