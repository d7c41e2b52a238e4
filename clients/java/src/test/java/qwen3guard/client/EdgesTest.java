package qwen3guard.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonParser;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.stub.MetadataUtils;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import qwen3guard.v1.ModerateRequest;

/** What the client does with values before they are sent, and with its own connection. */
class EdgesTest {
  private static final String HALF = "How do I boil an egg? \ud83d";

  @Test
  void textThatIsHalfASurrogatePairIsRefusedByName() {
    try (GuardClient client = GuardClient.builder("localhost:1").insecure().build()) {
      refusedFor("conversation[1].content", client, Requests.reply("How?", HALF));
      refusedFor("routing_key", client, ModerateRequest.newBuilder().setRoutingKey(HALF).build());
      refusedFor("slot", client, ModerateRequest.newBuilder().setSlot(HALF).build());
    }
  }

  @Test
  @EnabledIfEnvironmentVariable(named = "GUARD_CONFORMANCE", matches = ".+")
  void ofSeveralRequestsOneThatIsNoTextFailsAlone() throws Exception {
    List<ModerateRequest> requests =
        List.of(
            Requests.prompt("How do I boil an egg?"),
            Requests.prompt(HALF),
            Requests.prompt("And two?"));
    try (GuardClient client = GuardClient.builder(server("engine")).insecure().build()) {
      List<Outcome> outcomes = client.batch(requests);
      assertNotNull(outcomes.get(0).response());
      check("conversation[0].content", outcomes.get(1).error());
      assertNotNull(outcomes.get(2).response());
      try (GuardStream stream = client.stream()) {
        var first = stream.moderate(requests.get(0));
        var second = stream.moderate(requests.get(1));
        var third = stream.moderate(requests.get(2));
        assertNotNull(first.join());
        var failed = assertThrows(CompletionException.class, second::join);
        check("conversation[0].content", (GuardException) failed.getCause());
        assertNotNull(third.join());
      }
    }
  }

  @Test
  @EnabledIfEnvironmentVariable(named = "GUARD_CONFORMANCE", matches = ".+")
  void aClientWithAnotherTimeoutLeavesTheConnectionOpen() throws Exception {
    Metadata headers = new Metadata();
    headers.put(Metadata.Key.of("x-trace", Metadata.ASCII_STRING_MARSHALLER), "7");
    try (GuardClient client =
        GuardClient.builder(server("engine"))
            .insecure()
            .intercept(MetadataUtils.newAttachHeadersInterceptor(headers))
            .build()) {
      try (GuardClient patient = client.withTimeout(Duration.ofSeconds(30))) {
        assertNotNull(patient.moderate("How do I boil an egg?"));
      }
      assertNotNull(client.moderate("How do I boil an egg?"));
    }
  }

  @Test
  @EnabledIfEnvironmentVariable(named = "GUARD_CONFORMANCE", matches = ".+")
  void aMessageOfNoRoleIsRefusedByName() throws Exception {
    try (GuardClient client = GuardClient.builder(server("engine")).insecure().build()) {
      refusedFor(
          "conversation[1].role",
          client,
          Requests.conversation(
              List.of(
                  Requests.message("system", "Be brief."),
                  Requests.message("User", "How do I boil an egg?"))));
    }
  }

  @Test
  void whatIsNoListOfMessagesIsRefused() {
    Map.of(
            "{\"role\": \"user\", \"content\": \"How?\"}", "conversation",
            "[{\"role\": \"user\", \"content\": \"How?\"}", "conversation",
            "[{'role': 'user', 'content': 'How?'}]", "conversation",
            "[] []", "conversation",
            "[\"How?\"]", "conversation[0]",
            "[{\"role\": \"user\", \"role\": \"user\", \"content\": \"a\"}]", "conversation[0].role")
        .forEach(
            (given, field) ->
                check(field, assertThrows(GuardException.class, () -> Requests.chat(given))));
  }

  @Test
  void whatARequestCanCauseIsNoOutage() {
    assertTrue(GuardException.of(Status.Code.UNAVAILABLE, "", null).outage());
    assertTrue(GuardException.of(Status.Code.DEADLINE_EXCEEDED, "", null).outage());
    for (Status.Code code :
        List.of(
            Status.Code.RESOURCE_EXHAUSTED, // without RetryInfo: the message is too large
            Status.Code.INVALID_ARGUMENT,
            Status.Code.INTERNAL)) {
      assertFalse(GuardException.of(code, "", null).outage());
    }
  }

  @Test
  @EnabledIfEnvironmentVariable(named = "GUARD_CONFORMANCE", matches = ".+")
  void aStreamThatIsRefusedEachTimeFailsEachRequest() throws Exception {
    String target = server("refuses streams");
    try (GuardClient client = GuardClient.builder(target).insecure().build();
        GuardStream stream = client.stream()) {
      for (int number = 0; number < 70; number++) {
        var reply = stream.moderate(Requests.prompt("How do I boil an egg?"));
        var failed = assertThrows(ExecutionException.class, () -> reply.get(20, TimeUnit.SECONDS));
        var error = (GuardException) failed.getCause();
        assertEquals(Status.Code.PERMISSION_DENIED, error.code());
      }
    }
  }

  private static void refusedFor(String field, GuardClient client, ModerateRequest request) {
    check(field, assertThrows(GuardException.class, () -> client.moderate(request)));
  }

  private static void check(String field, GuardException error) {
    assertEquals(Status.Code.INVALID_ARGUMENT, error.code());
    assertEquals(List.of(field), error.violations().stream().map(one -> one.field()).toList());
    assertFalse(error.outage());
  }

  private static String server(String name) throws Exception {
    String plan = Files.readString(Path.of(System.getenv("GUARD_CONFORMANCE")));
    return JsonParser.parseString(plan)
        .getAsJsonObject()
        .getAsJsonObject("servers")
        .get(name)
        .getAsString();
  }
}
