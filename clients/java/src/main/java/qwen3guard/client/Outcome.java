package qwen3guard.client;

import qwen3guard.v1.ModerateResponse;

/** The answer to one item of a batch: one of a verdict and the reason why there is none is null. */
public record Outcome(ModerateResponse response, GuardException error) {}
