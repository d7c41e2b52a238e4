"""Which Python has TensorRT-LLM, in a container laid out like NVIDIA's."""

from pathlib import Path

import pytest

from guard_build.tensorrt_llm import CALIBRATION_SET, Format, dry_run, recipe
from guard_cli.commands.build_gpu import GpuBuild, build_gpu
from guard_core.slot.gpu_host import Container, MachineUnfit, find_python, read_machine
from guard_core.slot.manifest import Manifest
from tests.support.slots import TINY
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


def test_a_build_runs_everything_in_the_containers_python(tmp_path: Path) -> None:
    """The stand-ins of its tools fail in any other."""
    fake = FakeTools(tmp_path)
    for kind, tool in ((Format.FP8, "quantize.py"), (Format.BF16, "convert_checkpoint.py")):
        wanted = GpuBuild(
            checkpoint=str(TINY),
            revision=None,
            slot=tmp_path / "slots" / "green",
            kind=kind,
            recipe=recipe(kind),
            work=tmp_path / "work" / kind,
            calibration=CALIBRATION_SET,
            against=None,
        )
        manifest = build_gpu(wanted, fake.container)
        assert fake.ran() == [tool, "trtllm-build"]
        assert Manifest.load(wanted.slot) == manifest
        assert (manifest.engine.version, manifest.engine.gpu) == ("1.2.1", MACHINE.gpu)


def test_a_dry_run_shows_the_python_that_a_build_takes(
    tmp_path: Path,
) -> None:
    fake = FakeTools(tmp_path)
    build = engine_build(tmp_path)
    python = f"{tmp_path}/opt/venv-tritonserver/bin/python3"
    lines = list(dry_run(build, fake.container))
    assert lines[0] == f"python     {python} (trtllm-build names it)"
    quantize = f"{tmp_path}/app/examples/quantization/quantize.py --model_dir"
    assert any(line.startswith(f"quantize   {python} {quantize}") for line in lines)
    Path(fake.container.trtllm_build).unlink()
    lines = list(dry_run(build, fake.container))
    assert lines[0] == (
        "python     /opt/venv-tritonserver/bin/python3 (as in NVIDIA's container: no trtllm-build "
        "is here)"
    )
    assert any(f"quantize   /opt/venv-tritonserver/bin/python3 {quantize}" in x for x in lines)


def test_a_dry_run_refuses_a_container_that_a_build_would(tmp_path: Path) -> None:
    fake = FakeTools(tmp_path)
    Path(fake.container.trtllm_build).write_text("#!/bin/sh\n")
    with pytest.raises(MachineUnfit, match="names no Python"):
        list(dry_run(engine_build(tmp_path), fake.container))


@pytest.mark.parametrize("capability", ["[N/A]", "", "9"])
def test_a_driver_that_gives_no_compute_capability(tmp_path: Path, capability: str) -> None:
    container = fake_container(tmp_path, gpu=f"NVIDIA H100, {capability}")
    with pytest.raises(MachineUnfit, match=r"no compute capability, but '.*'\. Use a machine"):
        read_machine(container)


@pytest.mark.parametrize("first", ["#!/bin/sh", "#!/usr/bin/env python3", "\x7fELF", "#!", ""])
def test_a_first_line_that_names_no_python(tmp_path: Path, first: str) -> None:
    container = fake_container(tmp_path)
    Path(container.trtllm_build).write_text(first + "\n")
    with pytest.raises(MachineUnfit, match=r"names no Python.* Run make gpu-build"):
        find_python(container)
