package qwen3guard.client;

import java.util.List;
import qwen3guard.v1.Message;
import qwen3guard.v1.ModerateRequest;
import qwen3guard.v1.Role;

/** Builds the usual requests. {@link ModerateRequest#newBuilder()} has all fields. */
public final class Requests {
  private Requests() {}

  /** Returns a request to judge what a user wrote. */
  public static ModerateRequest prompt(String text) {
    return conversation(List.of(message("user", text)));
  }

  /** Returns a request to judge what an assistant answered to a prompt. */
  public static ModerateRequest reply(String prompt, String answer) {
    return conversation(List.of(message("user", prompt), message("assistant", answer)));
  }

  /** Returns a request to judge the last of several messages. */
  public static ModerateRequest conversation(List<Message> messages) {
    return ModerateRequest.newBuilder().addAllConversation(messages).build();
  }

  /**
   * Returns a request to judge the last of a chat program's messages, which are in JSON: {@code
   * [{"role": "user", "content": "How do I boil an egg?"}]}. A key whose value is null is none.
   *
   * @throws GuardException with the field of what can't be judged, such as content in parts or a
   *     tool call
   */
  public static ModerateRequest chat(String messages) {
    return ChatMessages.read(messages);
  }

  /**
   * Returns a message of a plain role: {@code system}, {@code user} or {@code assistant}. The server
   * refuses a message of any other role, and names its field.
   */
  public static Message message(String role, String content) {
    return message(ChatMessages.ROLES.getOrDefault(role, Role.ROLE_UNSPECIFIED), content);
  }

  public static Message message(Role role, String content) {
    return Message.newBuilder().setRole(role).setContent(content).build();
  }
}
