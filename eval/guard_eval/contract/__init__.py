"""Whether a live engine keeps TensorRT-LLM's tensor contract: everything that a gateway assumes."""

from guard_eval.contract.asking import EngineUnreachable
from guard_eval.contract.boundaries import longest_conversation
from guard_eval.contract.checks import check_contract
from guard_eval.contract.finding import Finding

__all__ = ["EngineUnreachable", "Finding", "check_contract", "longest_conversation"]
