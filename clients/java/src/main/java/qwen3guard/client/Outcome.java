package qwen3guard.client;

import qwen3guard.v1.ModerateResponse;

/** The result of one item of a batch: a response or an error; the other one is null. */
public record Outcome(ModerateResponse response, GuardException error) {}
