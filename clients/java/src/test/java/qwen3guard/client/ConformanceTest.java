package qwen3guard.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.util.JsonFormat;
import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.CompositeChannelCredentials;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable;
import qwen3guard.v1.ModerateRequest;
import qwen3guard.v1.ModerateResponse;

/** Runs the plan of tests/conformance; {@code make clients-test} starts the servers. */
class ConformanceTest {

  /** The result of a case: outcomes by index, their order of completion, the call's own error. */
  private record Got(Map<Integer, Outcome> outcomes, List<Integer> order, GuardException ends) {}

  @Test
  @EnabledIfEnvironmentVariable(named = "GUARD_CONFORMANCE", matches = ".+")
  void everyCase() throws Exception {
    JsonObject plan =
        JsonParser.parseString(Files.readString(Path.of(System.getenv("GUARD_CONFORMANCE"))))
            .getAsJsonObject();
    List<String> passed = new ArrayList<>();
    for (JsonElement element : plan.getAsJsonArray("cases")) {
      JsonObject testCase = element.getAsJsonObject();
      String name = testCase.get("name").getAsString();
      String server = testCase.get("server").getAsString();
      String target = plan.getAsJsonObject("servers").get(server).getAsString();
      try {
        run(testCase, target, Path.of(plan.get("authority").getAsString()));
        passed.add(name);
        System.out.println("ok    " + name);
      } catch (AssertionError | RuntimeException failed) {
        System.out.println("FAIL  " + name + "\n" + failed);
      }
    }
    Files.writeString(Path.of(plan.get("passed").getAsString()), new Gson().toJson(passed));
    assertEquals(plan.getAsJsonArray("cases").size(), passed.size());
  }

  private static void run(JsonObject testCase, String target, Path authority) throws Exception {
    Duration timeout = Duration.ofMillis((long) (1000 * testCase.get("timeout_s").getAsDouble()));
    Got got;
    GuardClient.Builder builder = GuardClient.builder(target).timeout(timeout).insecure();
    Metadata metadata = new Metadata();
    for (var pair : testCase.getAsJsonObject("metadata").entrySet()) {
      metadata.put(
          Metadata.Key.of(pair.getKey(), Metadata.ASCII_STRING_MARSHALLER),
          pair.getValue().getAsString());
    }
    builder.intercept(MetadataUtils.newAttachHeadersInterceptor(metadata));
    if (testCase.get("tls").getAsBoolean()) {
      ChannelCredentials tls =
          TlsChannelCredentials.newBuilder().trustManager(authority.toFile()).build();
      int kib = testCase.get("token_kib").getAsInt();
      builder.credentials(kib > 0 ? CompositeChannelCredentials.create(tls, new Token(kib)) : tls);
    }
    String key = testCase.get("key").getAsString();
    if (!key.isEmpty()) {
      builder.key(key);
    }
    try (GuardClient client = builder.build()) {
      if (testCase.get("call").getAsString().equals("live")) {
        LiveConformance.run(testCase, client);
        return;
      }
      got = call(testCase, client);
    }
    checkEnd(testCase, got.ends);
    JsonArray order = testCase.getAsJsonArray("order");
    for (int i = 0; i < order.size(); i++) {
      assertEquals(order.get(i).getAsInt(), got.order.get(i), "order " + got.order);
    }
    if (testCase.get("leave_after").getAsInt() > 0) {
      return;
    }
    JsonArray expected = testCase.getAsJsonArray("expect");
    assertEquals(expected.size(), got.outcomes.size());
    for (int i = 0; i < expected.size(); i++) {
      check(Integer.toString(i), expected.get(i), json(got.outcomes.get(i)));
    }
  }

  static void checkEnd(JsonObject testCase, GuardException got) {
    JsonElement ends = testCase.get("ends");
    if (ends.isJsonNull()) {
      assertNull(got);
    } else {
      assertNotNull(got, "the call did not end with an error");
      check("ends", ends, described(got));
    }
  }

  /** A token of so many KiB, which each call carries. */
  private static final class Token extends CallCredentials {
    private final Metadata metadata = new Metadata();

    Token(int kib) {
      metadata.put(
          Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER),
          "Bearer " + "x".repeat(kib * 1024));
    }

    @Override
    public void applyRequestMetadata(RequestInfo info, Executor executor, MetadataApplier applier) {
      applier.apply(metadata);
    }
  }

  /** A request in JSON, its wire bytes as a string in base64, or a chat program's messages. */
  private static ModerateRequest request(JsonElement request) throws Exception {
    if (request.isJsonArray()) {
      return Requests.chat(request.toString());
    }
    if (request.isJsonPrimitive()) {
      return ModerateRequest.parseFrom(Base64.getDecoder().decode(request.getAsString()));
    }
    var read = ModerateRequest.newBuilder();
    JsonFormat.parser().merge(request.toString(), read);
    return read.build();
  }

  private static Got call(JsonObject testCase, GuardClient client) throws Exception {
    Map<Integer, Outcome> outcomes = new TreeMap<>();
    List<Integer> order = Collections.synchronizedList(new ArrayList<>());
    try {
      List<ModerateRequest> requests = new ArrayList<>();
      for (JsonElement request : testCase.getAsJsonArray("requests")) {
        requests.add(request(request));
      }
      switch (testCase.get("call").getAsString()) {
        case "moderate" -> {
          double cancelAfter = testCase.get("cancel_after_s").getAsDouble();
          ModerateResponse reply =
              cancelAfter > 0
                  ? cancelled(client.moderateAsync(requests.get(0)), cancelAfter)
                  : client.moderate(requests.get(0));
          outcomes.put(0, new Outcome(reply, null));
        }
        case "batch" -> {
          for (Outcome outcome : client.batch(requests)) {
            outcomes.put(outcomes.size(), outcome);
          }
        }
        default -> {
          return stream(testCase, client, requests);
        }
      }
    } catch (GuardException failed) {
      return new Got(outcomes, order, failed);
    } catch (CancellationException cancelled) {
      return new Got(outcomes, order, GuardException.of(Status.Code.CANCELLED, "", cancelled));
    }
    return new Got(outcomes, order, null);
  }

  private static ModerateResponse cancelled(CompletableFuture<ModerateResponse> reply, double after)
      throws Exception {
    CompletableFuture.delayedExecutor((long) (after * 1000), TimeUnit.MILLISECONDS)
        .execute(() -> reply.cancel(true));
    return reply.get();
  }

  private static Got stream(
      JsonObject testCase, GuardClient client, List<ModerateRequest> requests) throws Exception {
    int leaveAfter = testCase.get("leave_after").getAsInt();
    long quietMs = (long) (1000 * testCase.get("quiet_s").getAsDouble());
    Map<Integer, Outcome> outcomes = new TreeMap<>();
    List<Integer> order = Collections.synchronizedList(new ArrayList<>());
    List<CompletableFuture<ModerateResponse>> replies = new ArrayList<>();
    GuardException ends = null;
    long itemTimeoutMs = (long) (1000 * testCase.get("item_timeout_s").getAsDouble());
    try (GuardStream stream =
        itemTimeoutMs > 0 ? client.stream(Duration.ofMillis(itemTimeoutMs)) : client.stream()) {
      for (int i = 0; i < requests.size(); i++) {
        int index = i;
        Thread.sleep(i == requests.size() - 1 ? quietMs : 0);
        var reply = stream.moderate(requests.get(i));
        replies.add(reply);
        reply.whenComplete((response, error) -> order.add(index));
      }
      if (leaveAfter > 0) {
        CompletableFuture.anyOf(replies.toArray(CompletableFuture[]::new)).join();
        stream.cancel();
      }
      for (int i = 0; i < replies.size(); i++) {
        try {
          outcomes.put(i, new Outcome(replies.get(i).join(), null));
        } catch (CompletionException failed) {
          GuardException error = (GuardException) failed.getCause();
          boolean own = leaveAfter > 0 || itemTimeoutMs > 0 || !error.reason().isEmpty();
          if (!own) {
            ends = error; // the stream's own error, with which each of its requests fails
          } else {
            outcomes.put(i, new Outcome(null, error));
          }
        }
      }
    }
    return new Got(outcomes, order, ends);
  }

  private static JsonObject json(Outcome outcome) throws Exception {
    JsonObject json = new JsonObject();
    if (outcome.error() != null) {
      json.add("error", described(outcome.error()));
    } else {
      json.add("response", JsonParser.parseString(JsonFormat.printer().print(outcome.response())));
      json.addProperty("printed", String.valueOf(outcome.response().getAction()));
    }
    return json;
  }

  private static JsonObject described(GuardException error) {
    JsonObject json = new JsonObject();
    json.addProperty("code", error.code().name());
    json.addProperty("reason", error.reason());
    json.addProperty("retry", !error.retryAfter().isZero());
    json.addProperty("says", error.getMessage());
    JsonArray fields = new JsonArray();
    error.violations().forEach(violation -> fields.add(violation.field()));
    json.add("fields", fields);
    return json;
  }

  /** Compares the expected part of a result: null means absent, "*" present, "a|b" either. */
  static void check(String at, JsonElement expected, JsonElement got) {
    if (expected.isJsonObject()) {
      assertTrue(got != null && got.isJsonObject(), at + ": got " + got);
      for (var part : expected.getAsJsonObject().entrySet()) {
        if (part.getKey().equals("says")) {
          String said = got.getAsJsonObject().get("says").getAsString();
          assertTrue(said.contains(part.getValue().getAsString()), at + ": says " + said);
          continue;
        }
        check(at + "." + part.getKey(), part.getValue(), got.getAsJsonObject().get(part.getKey()));
      }
    } else if (expected.isJsonPrimitive() && expected.getAsString().equals("*")) {
      assertNotNull(got, at + ": is absent");
    } else if (expected.isJsonPrimitive() && expected.getAsString().contains("|")) {
      var either = List.of(expected.getAsString().split("\\|"));
      assertTrue(got != null && either.contains(got.getAsString()), at + ": got " + got);
    } else {
      assertEquals(expected, got == null ? JsonNull.INSTANCE : got, at);
    }
  }
}
