"""A client of one Triton model that speaks TensorRT-LLM's tensor contract."""
