package qwen3guard.client;

import com.google.gson.Strictness;
import com.google.gson.stream.JsonReader;
import com.google.gson.stream.JsonToken;
import com.google.gson.stream.MalformedJsonException;
import java.io.EOFException;
import java.io.IOException;
import java.io.StringReader;
import java.util.HashMap;
import java.util.Map;
import qwen3guard.v1.Message;
import qwen3guard.v1.ModerateRequest;
import qwen3guard.v1.Role;

/** Reads a chat program's messages, in JSON, and refuses what can't be judged. */
final class ChatMessages {
  static final Map<String, Role> ROLES =
      Map.of(
          "system", Role.ROLE_SYSTEM,
          "user", Role.ROLE_USER,
          "assistant", Role.ROLE_ASSISTANT);

  private ChatMessages() {}

  static ModerateRequest read(String messages) {
    ModerateRequest.Builder request = ModerateRequest.newBuilder();
    try (JsonReader json = new JsonReader(new StringReader(messages))) {
      json.setStrictness(Strictness.STRICT);
      json.beginArray();
      while (json.hasNext()) {
        request.addConversation(message(json, "conversation[" + request.getConversationCount() + "]"));
      }
      json.endArray();
      if (json.peek() != JsonToken.END_DOCUMENT) {
        throw new MalformedJsonException("more than one value");
      }
    } catch (MalformedJsonException | EOFException | IllegalStateException malformed) {
      throw Texts.refused("conversation", "is no JSON list of messages.");
    } catch (IOException impossible) {
      throw new AssertionError(impossible); // it reads a string
    }
    return request.build();
  }

  private static Message message(JsonReader json, String path) throws IOException {
    if (json.peek() != JsonToken.BEGIN_OBJECT) {
      throw Texts.refused(path, "is no object with role and content.");
    }
    Map<String, String> found = new HashMap<>();
    json.beginObject();
    while (json.hasNext()) {
      String key = json.nextName();
      JsonToken kind = json.peek();
      boolean isPart = key.equals("role") || key.equals("content");
      if (key.equals("content") && kind != JsonToken.STRING) {
        throw Texts.refused(path + ".content", "is no text: parts can't be judged.");
      }
      if (!isPart && kind != JsonToken.NULL) {
        throw Texts.refused(
            path + "." + key, "can't be judged: a message has role and content.");
      }
      if (found.containsKey(key)) {
        throw Texts.refused(path + "." + key, "is there twice.");
      }
      found.put(key, kind == JsonToken.STRING ? json.nextString() : "");
      if (kind != JsonToken.STRING) {
        json.skipValue();
      }
    }
    json.endObject();
    Role role = ROLES.get(found.get("role"));
    if (role == null) {
      throw Texts.refused(path + ".role", "is none of system, user, assistant.");
    }
    if (!found.containsKey("content")) {
      throw Texts.refused(path + ".content", "is missing.");
    }
    return Message.newBuilder().setRole(role).setContent(found.get("content")).build();
  }
}
