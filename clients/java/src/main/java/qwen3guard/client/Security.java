package qwen3guard.client;

import io.grpc.Status;
import java.io.EOFException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.URI;
import java.time.Duration;
import java.util.Optional;
import java.util.function.Consumer;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLHandshakeException;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.SSLSocketFactory;

/**
 * Finds out whether a server that can't be reached disagrees with the client about TLS. gRPC's own
 * error may name another of the server's addresses, or only say that it hung up.
 */
final class Security {
  private static final Duration LOOK = Duration.ofSeconds(1);
  // Callers of a server that is down do not add to its load.
  private static final Duration LOOK_AGAIN = Duration.ofSeconds(10);

  private final String address;
  private final boolean plain;
  private Optional<String> found = Optional.empty();
  private long looked = System.nanoTime() - LOOK_AGAIN.toNanos();

  Security(String target, boolean plain) {
    this.address = target.substring(target.lastIndexOf('/') + 1);
    this.plain = plain;
  }

  /** Passes an error on, with what is wrong with the connection's security, if anything is. */
  void explain(GuardException error, Consumer<GuardException> then) {
    if (error.code() == Status.Code.UNAVAILABLE && error.reason().isEmpty()) {
      Retry.later(Duration.ZERO, () -> then.accept(explained(error))); // it blocks
    } else {
      then.accept(error);
    }
  }

  private synchronized GuardException explained(GuardException error) {
    if (System.nanoTime() - looked >= LOOK_AGAIN.toNanos()) {
      found = mismatch();
      looked = System.nanoTime();
    }
    return found
        .map(what -> GuardException.of(error.code(), what + " gRPC says: " + error.getMessage(), error))
        .orElse(error);
  }

  private Optional<String> mismatch() {
    URI uri;
    try {
      uri = URI.create("tcp://" + address);
    } catch (IllegalArgumentException noAddress) {
      return Optional.empty();
    }
    if (uri.getHost() == null || uri.getPort() < 0) {
      return Optional.empty();
    }
    Optional<Boolean> speaksTls = speaksTls(uri.getHost(), uri.getPort());
    if (plain && speaksTls.equals(Optional.of(true))) {
      return Optional.of(address + " speaks TLS only: leave insecure() out.");
    }
    if (!plain && speaksTls.equals(Optional.of(false))) {
      return Optional.of(
          address + " speaks no TLS: use insecure(), or give the server a certificate.");
    }
    return Optional.empty();
  }

  /** Empty if there is no answer. */
  private static Optional<Boolean> speaksTls(String host, int port) {
    try {
      for (InetAddress each : InetAddress.getAllByName(host)) {
        try (Socket socket = new Socket()) {
          socket.setSoTimeout((int) LOOK.toMillis());
          socket.connect(new InetSocketAddress(each, port), (int) LOOK.toMillis());
          var factory = (SSLSocketFactory) SSLSocketFactory.getDefault();
          try (var tls = (SSLSocket) factory.createSocket(socket, host, port, true)) {
            tls.startHandshake();
            return Optional.of(true);
          } catch (SSLHandshakeException failed) { // not trusted, unless it only hung up
            return failed.getCause() instanceof EOFException
                ? Optional.empty()
                : Optional.of(true);
          } catch (SSLException noTls) {
            return Optional.of(false);
          }
        } catch (IOException refused) {
          continue; // with the host's next address
        }
      }
    } catch (IOException unknownHost) {
      return Optional.empty();
    }
    return Optional.empty();
  }
}
