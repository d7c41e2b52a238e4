package qwen3guard.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.util.JsonFormat;
import java.util.ArrayList;
import java.util.List;
import qwen3guard.v1.LiveStart;

/** Live calls of the plan: each text comes after the event of the one before, then the end. */
final class LiveConformance {
  private LiveConformance() {}

  static void run(JsonObject testCase, GuardClient client) throws Exception {
    var start = LiveStart.newBuilder();
    JsonFormat.parser().merge(testCase.get("start").toString(), start);
    List<JsonObject> events = new ArrayList<>();
    GuardException ends = null;
    try (LiveGuard live = client.live(start.build())) {
      JsonArray texts = testCase.getAsJsonArray("texts");
      give(live, texts, 0);
      for (LiveEvent event : live) {
        JsonObject came = new JsonObject();
        came.addProperty("text", event.cleared());
        came.add("reply", JsonParser.parseString(JsonFormat.printer().print(event.reply())));
        events.add(came);
        give(live, texts, events.size());
      }
    } catch (GuardException failed) {
      ends = failed;
    }
    ConformanceTest.checkEnd(testCase, ends);
    JsonArray expected = testCase.getAsJsonArray("expect");
    assertEquals(expected.size(), events.size(), "events: " + events);
    for (int i = 0; i < expected.size(); i++) {
      ConformanceTest.check(Integer.toString(i), expected.get(i), events.get(i));
    }
  }

  private static void give(LiveGuard live, JsonArray texts, int index) {
    if (index < texts.size()) {
      live.send(texts.get(index).getAsString());
    } else if (index == texts.size()) {
      live.end();
    }
  }
}
