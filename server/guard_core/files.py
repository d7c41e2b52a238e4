"""Files that are replaced as a whole."""

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """A reader finds the old or the new content, whole. Raises OSError, and leaves nothing then."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as new:
        try:
            new.write(content)
            new.flush()
            os.fsync(new.fileno())
            Path(new.name).rename(path)
        except OSError:
            Path(new.name).unlink()
            raise
