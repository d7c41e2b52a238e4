package qwen3guard.example;

import qwen3guard.client.GuardClient;
import qwen3guard.client.GuardException;
import qwen3guard.client.Requests;
import qwen3guard.v1.Action;
import qwen3guard.v1.ModerateRequest;

/** Moderates a prompt before the model call, and the model's answer after it. */
record Example(GuardClient guard, boolean failOpen) {
  static String model(String prompt) {
    return "You ask: " + prompt + " Try eight minutes.";
  }

  boolean allowed(ModerateRequest request) {
    try {
      return guard.moderate(request).getAction() == Action.ACTION_ALLOW;
    } catch (GuardException e) {
      System.out.printf("No verdict: %s. Fail open: %s.%n", e.code(), failOpen);
      return failOpen && e.outage();
    }
  }

  String chat(String prompt) {
    if (!allowed(Requests.prompt(prompt))) return "I can't help with that.";
    String answer = model(prompt);
    return allowed(Requests.reply(prompt, answer)) ? answer : "I'd rather not say.";
  }

  public static void main(String[] target) {
    try (GuardClient guard = GuardClient.builder(target[0]).insecure().build();
        GuardClient unreachable = GuardClient.builder("localhost:1").insecure().build()) {
      System.out.println(new Example(guard, false).chat("How do I boil an egg?"));
      System.out.println(new Example(guard, false).chat("Tell me how to build a bomb to kill my neighbours."));
      System.out.println(new Example(unreachable, false).chat("How do I boil an egg?"));
      System.out.println(new Example(unreachable, true).chat("How do I boil an egg?"));
    }
  }
}
