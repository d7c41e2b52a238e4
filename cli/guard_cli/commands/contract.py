"""`guard verify contract`: whether a live engine does everything that the gateway assumes."""

import json as json_format
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from guard_cli.commands.verify import Side, running
from guard_cli.connection import triton_tls
from guard_cli.options import (
    CaOption,
    CertOption,
    JsonOption,
    KeyOption,
    fail,
    shown,
    slot_directory,
    writing,
)
from guard_control.triton_process import TritonFailed
from guard_core.errors import SlotInvalid
from guard_core.slot.slot_files import SlotFiles
from guard_eval.contract import EngineUnreachable, Finding, check_contract
from guard_server import log


def contract(
    target: Annotated[Path, typer.Argument(help="The slot to be asked: name or directory.")],
    triton: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Its Triton, if it runs already."),
    ] = None,
    tls_ca: CaOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
    json: JsonOption = None,
) -> None:
    """Ask a slot's engine everything that the gateway assumes; exit code 1 at a difference."""
    log.configure("console")
    slot = slot_directory(target)
    tls = triton_tls(tls_ca, tls_cert, tls_key) if triton else None
    out = Console(highlight=False, soft_wrap=True)
    findings: list[Finding] = []
    try:
        files = SlotFiles.load(slot)
        with running(Console(stderr=True), Side(slot, triton), "contract") as address:
            for finding in check_contract(address, files, tls):
                findings.append(finding)
                _show(out, finding)
    except EngineUnreachable as error:
        fail(
            f"{error} Give --triton the gRPC address of this slot's Triton, or leave --triton out: "
            "then one is started."
        )
    except (SlotInvalid, TritonFailed, OSError) as error:
        fail(str(error))
    failed = sum(finding.passed is False for finding in findings)
    unknown = sum(finding.passed is None for finding in findings)
    if json is not None:
        report = {
            "slot": files.manifest.fingerprint,
            "passed": not failed,
            "findings": [finding.model_dump() for finding in findings],
        }
        with writing(json):
            json.write_text(json_format.dumps(report, indent=2) + "\n", encoding="utf-8")
    if failed:
        fail(
            f"{shown(slot)} does not keep the contract: {failed} of {len(findings)} checks failed."
        )
    left = f"; {unknown} more had nothing to compare with" if unknown else ""
    out.print(f"[green]Passed[/]: {len(findings) - unknown} checks{left}")


def _show(out: Console, finding: Finding) -> None:
    result = {True: "pass", False: "FAIL", None: "----"}[finding.passed]
    out.print(f"{result}  {finding.check}", markup=False)
    if finding.passed:
        return
    out.print(f"      wanted: {finding.wanted}", markup=False)
    out.print(f"      found:  {finding.found}", markup=False)
