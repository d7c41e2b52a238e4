"""Which Python has TensorRT-LLM, in a container laid out like NVIDIA's."""

from pathlib import Path

import pytest

from guard_core.slot.gpu_host import Container, MachineUnfit, find_python, read_machine
from tests.support.stand_ins.tensorrt_llm import (
    MACHINE,
    FakeTools,
    engine_build,
    fake_container,
    run,
)

pytestmark = pytest.mark.slow


def test_the_python_is_that_of_trtllm_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTools(tmp_path)
    environment = tmp_path / "opt" / "venv-tritonserver" / "bin"
    # First /opt/guard/bin, whose python3 is ours, as in the image.
    monkeypatch.setenv("PATH", f"{tmp_path / 'usr' / 'bin'}:{environment}")
    assert find_python(Container()) == f"{environment}/python3"
    assert read_machine(Container()) == MACHINE
    run(engine_build(tmp_path), fake)
    assert fake.ran() == ["quantize.py", "trtllm-build"]


@pytest.mark.parametrize("first", ["#!/bin/sh", "#!/usr/bin/env python3", "\x7fELF", "#!", ""])
def test_a_first_line_that_names_no_python(tmp_path: Path, first: str) -> None:
    container = fake_container(tmp_path)
    Path(container.trtllm_build).write_text(first + "\n")
    with pytest.raises(MachineUnfit, match=r"names no Python.* Run make gpu-build"):
        find_python(container)
