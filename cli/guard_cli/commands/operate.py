"""Commands for the slots of a running server: clients of DeploymentService."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guard_cli.options import IgnoreOption, fail, slot_directory

if TYPE_CHECKING:
    from guard_cli.deployment_client import DeploymentClient

Control = Annotated[str, typer.Option("--control", help="The server's control port, HOST:PORT.")]
Steps = Annotated[str, typer.Option(help="Percent of the traffic that the slot gets at each step.")]
Pause = Annotated[float, typer.Option(help="Seconds to watch each step.", min=0)]
MaxFactor = Annotated[
    float,
    typer.Option(help="How many times the active slot's error rate and p99 are allowed.", min=1),
]
KeepOld = Annotated[
    bool, typer.Option("--keep-old", help="Keep the old slot running, for an instant rollback.")
]
_CONTROL, _STEPS, _PAUSE, _FACTOR = "127.0.0.1:50052", "5,25,50,100", 10.0, 2.0


def slots(
    watch: Annotated[
        bool, typer.Option("--watch", help="Then print events as they happen.")
    ] = False,
    control: Control = _CONTROL,
) -> None:
    """Show slots, traffic weights and request statistics."""
    _client(control).show_slots(watch=watch)


def deploy(
    candidate: Annotated[Path, typer.Argument(help="A built slot: its name or directory.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Conversations to verify with, .jsonl or .csv.", exists=True, dir_okay=False
        ),
    ] = None,
    ignore: IgnoreOption = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            help="Required agreement with the active slot, on the data and on live requests.",
            min=0,
            max=1,
        ),
    ] = None,
    verify_in_flight: Annotated[
        int, typer.Option(help="Conversations in flight during the verification.", min=1)
    ] = 2,
    shadow_share: Annotated[
        float, typer.Option(help="Share of live requests to shadow before the shift.", min=0, max=1)
    ] = 0.1,
    shadow_seconds: Annotated[float, typer.Option(help="How long to shadow.", min=0)] = 10,
    ready_timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the engine's first verdicts.", min=1)
    ] = 300,
    steps: Steps = _STEPS,
    pause: Pause = _PAUSE,
    max_factor: MaxFactor = _FACTOR,
    keep_old: KeepOld = False,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare", help="Stop after the verification: `guard promote` does the rest."
        ),
    ] = False,
    control: Control = _CONTROL,
) -> None:
    """Roll out a slot: check, start, warm up, verify, shadow, shift, drain and stop the old one.

    A gate that fails takes everything back. Ctrl-C ends the rollout and leaves the traffic as it
    is.
    """
    _client(control).deploy(
        slot_directory(candidate),
        data=data,
        ignored_keys=ignore or (),
        min_agreement=min_agreement,
        verify_in_flight=verify_in_flight,
        shadow_share=shadow_share,
        shadow_seconds=shadow_seconds,
        ready_timeout=ready_timeout,
        steps=_percents(steps),
        pause=pause,
        max_factor=max_factor,
        keep_old=keep_old,
        prepare=prepare,
    )


def promote(
    slot: Annotated[str, typer.Argument(help="A slot that runs.")],
    steps: Steps = _STEPS,
    pause: Pause = _PAUSE,
    max_factor: MaxFactor = _FACTOR,
    keep_old: KeepOld = False,
    control: Control = _CONTROL,
) -> None:
    """Shift the traffic to a slot that runs, step by step, with the same gates as deploy."""
    _client(control).promote(
        slot, steps=_percents(steps), pause=pause, max_factor=max_factor, keep_old=keep_old
    )


def rollback(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the slot that loses the traffic running.")
    ] = False,
    control: Control = _CONTROL,
) -> None:
    """Give all traffic back to the slot that had it before the last rollout, also during it."""
    _client(control).rollback(keep=keep)


def shadow(
    slot: Annotated[str, typer.Argument(help="A slot that runs.")],
    share: Annotated[
        float, typer.Option(help="Share of live requests; 0 ends the shadowing.", min=0, max=1)
    ] = 0.1,
    control: Control = _CONTROL,
) -> None:
    """Send a slot a share of the live requests as well, for comparison only."""
    _client(control).shadow(slot, share)


def drain(
    slot: Annotated[str, typer.Argument(help="A slot that runs.")],
    stop: Annotated[bool, typer.Option("--stop", help="Also stop its Triton.")] = False,
    control: Control = _CONTROL,
) -> None:
    """Take a slot's traffic away and wait until no request is in flight there."""
    _client(control).drain(slot, stop=stop)


def _client(control: str) -> "DeploymentClient":
    # gRPC and the contract take as long to load as all else, and help needs neither.
    from guard_cli.deployment_client import DeploymentClient  # noqa: PLC0415

    return DeploymentClient(control)


def _percents(steps: str) -> list[int]:
    try:
        return [int(step) for step in steps.split(",")]
    except ValueError:
        fail(f"--steps {steps}: give percent separated by commas, such as {_STEPS}.", code=2)
