"""Commands for the slots of a running server: clients of DeploymentService."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guard_cli.control_options import with_server
from guard_cli.options import IgnoreOption, fail

if TYPE_CHECKING:
    from guard_cli.deployment_client import DeploymentClient

Steps = Annotated[str, typer.Option(help="Percent of the traffic that the slot gets at each step.")]
Pause = Annotated[float, typer.Option(help="Seconds to watch each step.", min=0)]
MaxFactor = Annotated[
    float,
    typer.Option(help="How many times the active slot's error rate and p99 are allowed.", min=1),
]
KeepOld = Annotated[
    bool, typer.Option("--keep-old", help="Keep the old slot running, for an instant rollback.")
]
_STEPS, _PAUSE, _FACTOR = "5,25,50,100", 10.0, 2.0


@with_server
def slots(
    server: "DeploymentClient",
    watch: Annotated[
        bool, typer.Option("--watch", help="Then print events as they happen.")
    ] = False,
    replicas: Annotated[
        bool, typer.Option("--replicas", help="Also show each of the slots' Tritons.")
    ] = False,
) -> None:
    """Show slots, traffic weights and request statistics."""
    server.show_slots(watch=watch, replicas=replicas)


@with_server
def deploy(
    server: "DeploymentClient",
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
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with this rollout of a fleet, whose command has died."
        ),
    ] = False,
) -> None:
    """Roll out a slot: check, start, warm up, verify, shadow, shift, drain and stop the old one.

    A gate that fails takes everything back. Ctrl-C ends the rollout and leaves the traffic as it
    is.
    """
    server.deploy(
        candidate,
        resume=resume,
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


@with_server
def promote(
    server: "DeploymentClient",
    slot: Annotated[str, typer.Argument(help="A slot that runs.")],
    steps: Steps = _STEPS,
    pause: Pause = _PAUSE,
    max_factor: MaxFactor = _FACTOR,
    keep_old: KeepOld = False,
) -> None:
    """Shift the traffic to a slot that runs, step by step, with the same gates as deploy."""
    server.promote(
        slot, steps=_percents(steps), pause=pause, max_factor=max_factor, keep_old=keep_old
    )


@with_server
def rollback(
    server: "DeploymentClient",
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the slot that loses the traffic running.")
    ] = False,
) -> None:
    """Give all traffic back to the slot that had it before the last rollout, also during it."""
    server.rollback(keep=keep)


@with_server
def shadow(
    server: "DeploymentClient",
    slot: Annotated[str, typer.Argument(help="A slot that runs.")],
    share: Annotated[
        float, typer.Option(help="Share of live requests; 0 ends the shadowing.", min=0, max=1)
    ] = 0.1,
) -> None:
    """Send a slot a share of the live requests as well, for comparison only."""
    server.shadow(slot, share)


@with_server
def drain(
    server: "DeploymentClient",
    slot: Annotated[str, typer.Argument(help="A slot that runs.")],
    stop: Annotated[bool, typer.Option("--stop", help="Also stop its Triton.")] = False,
) -> None:
    """Take a slot's traffic away and wait until no request is in flight there."""
    server.drain(slot, stop=stop)


def _percents(steps: str) -> list[int]:
    try:
        return [int(step) for step in steps.split(",")]
    except ValueError:
        fail(f"--steps {steps}: give percent separated by commas, such as {_STEPS}.", code=2)
