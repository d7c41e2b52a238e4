"""`python -m guard_control.engine_probe --slot DIR --triton ADDRESS`, in a Triton's container.

With --tls-ca, --tls-cert and --tls-key it shows a certificate, as the gateways do.

Exit code 0 if the slot's engine gives answers, 1 if it does not: the scheduler, such as Kubernetes,
then replaces the container. An engine that is busy with others is alive.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from guard_control.loaded_model import EngineAnswer, LoadedModel
from guard_core.engine.channel import TritonTls
from guard_core.errors import SlotInvalid
from guard_core.slot.manifest import Manifest

_SAYS_S = 2.0  # Triton's time to say what it has answered
_SILENT_S = 10.0  # without an answer to us or to others: it is dead


def main(words: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--slot", type=Path, required=True, help="the slot's directory")
    options.add_argument("--triton", required=True, help="Triton's gRPC address")
    for name in ("ca", "cert", "key"):
        options.add_argument(f"--tls-{name}", type=Path, help="PEM; give all three or none")
    given = options.parse_args(words)
    files = given.tls_ca, given.tls_cert, given.tls_key
    if any(files) and not all(files):
        options.error("give --tls-ca, --tls-cert and --tls-key together")
    try:
        reason = _out(given.slot, given.triton, TritonTls(*files) if all(files) else None)
    except (SlotInvalid, OSError) as error:
        reason = str(error)
    if reason:
        print(reason, file=sys.stderr)  # noqa: T201
    return 1 if reason else 0


def _out(slot: Path, triton: str, tls: TritonTls | None) -> str:
    """Why the engine is out, or nothing."""
    manifest = Manifest.load(slot)
    model = LoadedModel(triton, manifest.engine.triton_model, manifest.tokens.end_ids[0], tls)
    before = model.answered(_SAYS_S)
    if before is None:
        return f"Triton does not answer on {triton}, or has not loaded the model."
    answer = model.infer(_SILENT_S)
    if answer is EngineAnswer.GIVEN:
        return ""
    if answer is EngineAnswer.GONE:
        return "The engine's process died, or Triton unloaded the model."
    if model.answered(_SAYS_S) not in (None, before):
        return ""
    return f"The engine has answered nothing to anybody for {_SILENT_S:g} s."


if __name__ == "__main__":
    sys.exit(main())
