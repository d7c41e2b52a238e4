"""What a Triton writes is for its own user, also what it would open to all."""

import subprocess
import sys
from pathlib import Path

from guard_control.host.private_files import with_private_files

PROGRAM = """
import os, subprocess, sys
for name, mode in (("made", 0o666), ("opened", 0o644)):
    handle = os.open(f"{sys.argv[1]}/{name}", os.O_CREAT | os.O_RDWR, mode)
    os.fchmod(handle, mode)
    print(oct(os.fstat(handle).st_mode & 0o777))
if len(sys.argv) == 2:
    subprocess.run([sys.executable, "-c", open(sys.argv[0]).read(), sys.argv[1], "child"])
"""


def test_no_file_of_a_program_or_its_children_is_opened_to_others(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(tmp_path)]

    def modes(words: list[str]) -> list[str]:
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert set(modes(with_private_files(command))) == {"0o600"}
    assert "0o644" in modes(command)
