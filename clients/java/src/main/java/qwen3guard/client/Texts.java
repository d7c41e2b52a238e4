package qwen3guard.client;

import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.protobuf.Any;
import com.google.rpc.Code;
import com.google.rpc.Status;
import java.nio.charset.CharsetEncoder;
import java.nio.charset.StandardCharsets;
import java.util.Optional;
import qwen3guard.v1.ModerateRequest;

/** Finds strings that are no text: protobuf would send half a surrogate pair as a question mark. */
final class Texts {
  static final String HALF = "holds half a surrogate pair, which is no text.";

  private Texts() {}

  /** Returns why the request can't be sent as it is, with the field at fault. */
  static Optional<GuardException> refusal(ModerateRequest request) {
    CharsetEncoder utf8 = StandardCharsets.UTF_8.newEncoder();
    for (int i = 0; i < request.getConversationCount(); i++) {
      if (!utf8.canEncode(request.getConversation(i).getContent())) {
        return Optional.of(refused("conversation[" + i + "].content", HALF));
      }
    }
    if (!utf8.canEncode(request.getRoutingKey())) {
      return Optional.of(refused("routing_key", HALF));
    }
    return utf8.canEncode(request.getSlot()) ? Optional.empty() : Optional.of(refused("slot", HALF));
  }

  /** Returns the error for a request that the client itself refuses. */
  static GuardException refused(String field, String description) {
    var violation =
        BadRequest.FieldViolation.newBuilder().setField(field).setDescription(description);
    return GuardException.of(
        Status.newBuilder()
            .setCode(Code.INVALID_ARGUMENT_VALUE)
            .setMessage(field + " " + description)
            .addDetails(Any.pack(ErrorInfo.newBuilder().setReason("REQUEST_INVALID").build()))
            .addDetails(Any.pack(BadRequest.newBuilder().addFieldViolations(violation).build()))
            .build());
  }
}
