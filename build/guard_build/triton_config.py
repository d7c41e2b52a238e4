"""Renders a Triton model's config.pbtxt from the template of both engines."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import jinja2

# In a checkout a link to model_repository/templates, in a wheel a copy of it.
TEMPLATES = Path(str(files("guard_build") / "templates"))


class Parameter(NamedTuple):
    """A parameter of a Triton backend, with the reason for its value."""

    key: str
    value: str
    why: str


def render_config(
    name: str, *, backend: str, max_batch_size: int, parameters: Sequence[Parameter]
) -> str:
    """The config.pbtxt of the Triton model `name`, as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - this is no HTML
    )
    return environment.get_template("config.pbtxt.jinja").render(
        name=name, backend=backend, max_batch_size=max_batch_size, parameters=parameters
    )
