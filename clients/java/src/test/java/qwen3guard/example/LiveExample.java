package qwen3guard.example;

import qwen3guard.client.GuardClient;
import qwen3guard.client.GuardException;
import qwen3guard.client.LiveEvent;
import qwen3guard.client.LiveGuard;
import qwen3guard.client.Requests;
import qwen3guard.v1.LiveStart;

/** Guards a streaming chat model: what it writes is held back until cleared, or shown at once. */
record LiveExample(LiveGuard live, boolean atOnce) implements Runnable {
  public void run() { // the model
    for (String word : "You ask: How do I boil an egg? Try eight minutes.".split("(?<= )")) {
      if (atOnce) System.out.print(word);
      live.send(word);
    }
    live.end();
  }

  static void chat(GuardClient guard, String prompt, boolean atOnce) {
    LiveStart start = LiveStart.newBuilder().setRequest(Requests.prompt(prompt)).build();
    try (LiveGuard live = guard.live(start)) {
      new Thread(new LiveExample(live, atOnce)).start();
      for (LiveEvent event : live) {
        System.out.print(atOnce ? "" : event.cleared());
        if (event.finished() || event.stopped()) System.out.println(" (blocked: " + event.blocked() + ")");
      }
    } catch (GuardException e) {
      System.out.println(" (no verdict: " + e.code() + ". The rest is not shown.)");
    }
  }

  public static void main(String[] target) {
    try (GuardClient guard = GuardClient.builder(target[0]).insecure().build()) {
      chat(guard, "How do I boil an egg?", false);
      chat(guard, "How do I boil an egg?", true);
    }
  }
}
