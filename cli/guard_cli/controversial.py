"""How Controversial is treated, as an option."""

from enum import StrEnum

from qwen3guard.v1 import types_pb2


class ControversialOption(StrEnum):
    """The treatment's name on the command line."""

    strict = "strict"
    loose = "loose"
    review = "review"

    @property
    def treatment(self) -> types_pb2.ControversialTreatment.ValueType:
        return types_pb2.ControversialTreatment.Value(
            f"CONTROVERSIAL_TREATMENT_{self.name.upper()}"
        )
