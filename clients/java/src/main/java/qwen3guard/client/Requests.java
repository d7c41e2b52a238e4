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
    return conversation(List.of(message(Role.ROLE_USER, text)));
  }

  /** Returns a request to judge what an assistant answered to a prompt. */
  public static ModerateRequest reply(String prompt, String answer) {
    return conversation(
        List.of(message(Role.ROLE_USER, prompt), message(Role.ROLE_ASSISTANT, answer)));
  }

  /** Returns a request to judge the last of several messages. */
  public static ModerateRequest conversation(List<Message> messages) {
    return ModerateRequest.newBuilder().addAllConversation(messages).build();
  }

  public static Message message(Role role, String content) {
    return Message.newBuilder().setRole(role).setContent(content).build();
  }
}
