"""Whether a live engine keeps TensorRT-LLM's tensor contract: everything that a gateway assumes."""

from guard_eval.contract.checks import check_contract, longest_conversation
from guard_eval.contract.finding import Finding

__all__ = ["Finding", "check_contract", "longest_conversation"]
