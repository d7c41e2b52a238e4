"""The gateway's settings as options of `guard serve`, made from `Settings`."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from guard_core.schema import problems
from guard_server.settings import Settings

# `guard serve` runs at a terminal, on one machine; a gateway alone is for containers.
DEFAULTS: Mapping[str, Any] = {"log_format": "console", "metrics_port": 9464}
# Not options: `guard serve` gives each gateway process its own.
GIVEN: Mapping[str, Any] = {
    "traffic": None,
    "slot": None,
    "triton": None,
    "triton_tls_ca": None,
    "triton_tls_cert": None,
    "triton_tls_key": None,
    "status": None,
    "reuse_port": False,
    "worker": 0,
    "supervisor": None,
}
_PANEL = "The gateway"
_METAVARS = {"markers": "TREATMENT"}  # its values would leave no room for what they mean


class SettingsInvalid(Exception):
    """The text names each option and says what is wrong with it."""


def option_name(setting: str) -> str:
    """request_timeout_s -> --request-timeout: a unit is no part of an option's name."""
    return "--" + setting.removesuffix("_s").replace("_", "-")


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a Typer command an option for each setting, instead of its last parameter **settings.

    The environment's GUARD_* is used where an option is not given.
    """
    *own, _ = inspect.signature(command).parameters.values()
    options = [_option(name) for name in Settings.model_fields if name not in GIVEN]
    setattr(command, "__signature__", inspect.Signature([*own, *options]))  # noqa: B010
    return command


def gateway_settings(options: Mapping[str, Any], traffic: Path) -> Settings:
    """The settings that a command's `options` say. Raises SettingsInvalid."""
    try:
        return Settings(**{**GIVEN, **options, "traffic": traffic})
    except ValidationError as error:
        raise SettingsInvalid(
            "; ".join(
                f"{option_name(name)}: {problem}" if name else problem
                for name, problem in problems(error)
            )
        ) from None


def _option(setting: str) -> inspect.Parameter:
    field = Settings.model_fields[setting]
    option = typer.Option(
        option_name(setting),  # a bool's too: there is no --no-insecure
        envvar=f"GUARD_{setting.upper()}",
        help=field.description,
        metavar=_METAVARS.get(setting),
        rich_help_panel=_PANEL,
    )
    return inspect.Parameter(
        setting,
        inspect.Parameter.KEYWORD_ONLY,
        default=DEFAULTS.get(setting, field.default),
        annotation=Annotated[field.annotation, option],
    )
