from pathlib import Path

import pytest

from tests.support.stand_ins.tensorrt_llm import FakeTools


@pytest.fixture
def fake(tmp_path: Path) -> FakeTools:
    (tmp_path / "tools").mkdir()
    return FakeTools(tmp_path / "tools")
