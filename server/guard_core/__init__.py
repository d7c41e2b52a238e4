"""What Qwen3Guard, a slot and an engine are: the domain under the gateway and every tool.

verdict       the grammar, the prompt, the policy, and how a verdict is decoded
engine        a client of TensorRT-LLM's tensor contract in Triton
slot          a built model on disk: manifest, files, traffic file, GPU host
conversation  messages, roles and their order
stats         request counters and latency histograms
schema        what all file formats share
files         replaces a file as a whole
errors        the error tree

Nothing here knows the gRPC contract or runs a server.
"""
