"""A slot whose engine was damaged before it was packaged, so that all of its hashes are right."""

import shutil
from pathlib import Path

from guard_build.slot_directory import seal
from guard_core.slot.manifest import Manifest, describe


def damaged(slot: Path, directory: Path) -> Path:
    """A copy of `slot`, under the same name below `directory`.

    One bit is turned in each of 1% of the weights' bytes, near their end: every verdict is still
    in the grammar, but others are a fifth of the golden set's and 7% of those on random words.
    """
    copy = directory / slot.name
    shutil.copytree(slot, copy)
    [weights] = copy.glob("*/1/openvino_model.bin")
    data = bytearray(weights.read_bytes())
    start = len(data) * 8 // 10
    for at in range(start, start + len(data) // 100):
        data[at] ^= 0x20
    weights.write_bytes(data)
    manifest = Manifest.load(copy)
    described = describe(weights)
    assert described is not None
    files = manifest.files | {weights.relative_to(copy).as_posix(): described}
    seal(copy, manifest.model_copy(update={"files": files}))
    return copy
