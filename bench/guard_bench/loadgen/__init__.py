"""The load generator: a loop decides when a call is made, a `Send` how.

call, sample        one call, and the figures of many
closed_loop         so many calls in flight
open_loop           calls at random moments, at a rate
connections         a `Send` over gRPC, by unary calls and streams
encoded_calls       requests and answers as bytes
synthetic_prompts   conversations without repetition
"""
