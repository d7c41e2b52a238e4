package qwen3guard.client;

import qwen3guard.v1.Action;
import qwen3guard.v1.LiveState;
import qwen3guard.v1.ModerateLiveResponse;

/**
 * What is new of an answer that is judged while it is written.
 *
 * @param cleared newly cleared text: whole characters, and together no more than may be shown
 */
public record LiveEvent(String cleared, ModerateLiveResponse reply) {
  /** Whether the answer is blocked before its end: stop the model. The last event. */
  public boolean stopped() {
    return reply.getState() == LiveState.LIVE_STATE_STOPPED;
  }

  /** Whether the whole answer has its verdict. The last event. */
  public boolean finished() {
    return reply.getState() == LiveState.LIVE_STATE_FINISHED;
  }

  /** Whether the answer is blocked for good, before its end or as a whole. */
  public boolean blocked() {
    return (stopped() || finished()) && reply.getAction() == Action.ACTION_BLOCK;
  }
}
