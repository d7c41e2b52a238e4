"""`make mutants`: changes the code in one small way at a time, and sees whether a test fails.

cosmic-ray makes the mutants of the modules in tools/mutants.toml, each in a copy of the code, and
runs the fast tests of their part in a process of its own. A mutant is

    killed      if a test fails
    unusable    if the tests do not begin: the module can't be imported
    timeout     if they do not end: that says nothing of a test, so there may be few of them
    equivalent  if no test kills it and the configuration says why none can
    survived    otherwise: a test is missing

The exit code is 1 if too few are killed, or too many time out.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cosmic_ray.commands import init
from cosmic_ray.tools.filters.operators_filter import OperatorsFilter
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

PROJECT = Path(__file__).parents[1]
WORK = PROJECT / ".run" / "mutants"
MARKERS = "not triton and not clients and not reference and not slow"
LEFT_OUT = WorkResult(WorkerOutcome.SKIPPED)
OUTCOMES = ("killed", "survived", "timeout", "equivalent", "unusable")

Range = tuple[tuple[int, int], tuple[int, int]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--percent", type=float, default=100, help="of the mutants, by chance")
    parser.add_argument("--parts", nargs="*", help="only these")
    options = parser.parse_args()
    config = tomllib.loads((PROJECT / "tools" / "mutants.toml").read_text(encoding="utf-8"))
    parts = [p for p in config["parts"] if not options.parts or p["name"] in options.parts]
    shutil.rmtree(WORK, ignore_errors=True)
    with ThreadPoolExecutor(config["processes"]) as pool:
        counts = list(pool.map(lambda part: run(part, config, options.percent), parts))
    total: Counter[str] = sum(counts, Counter())
    print(f"\n{'':12}", *(f"{outcome:>11}" for outcome in OUTCOMES))
    for name, count in [*zip((part["name"] for part in parts), counts, strict=True), ("", total)]:
        print(f"{name or 'all':12}", *(f"{count[outcome]:11}" for outcome in OUTCOMES))
    judged = total["killed"] + total["survived"] + total["timeout"]
    killed, timeouts = total["killed"] / max(judged, 1), total["timeout"] / max(judged, 1)
    print(f"\nOf {judged} that count, {killed:.1%} are killed and {timeouts:.1%} time out.")
    return int(killed < config["least_killed"] or timeouts > config["most_timeouts"])


def run(part: dict[str, Any], config: dict[str, Any], percent: float) -> Counter[str]:
    """Makes and tests the mutants of one part, and says what became of each that is not killed."""
    tree = WORK / part["name"]
    copy_tree(tree)
    session = str(tree / "session.sqlite")
    with use_db(session, WorkDB.Mode.create) as work:
        init([tree / module for module in part["modules"]], work, {})
        leave_out(work, config, percent)
    python = PROJECT / ".venv" / "bin" / "python"
    test = f"{python} -m pytest -x -q -p no:cacheprovider -m '{MARKERS}' {' '.join(part['tests'])}"
    settings = tree / "cosmic-ray.toml"
    settings.write_text(
        f'[cosmic-ray]\nmodule-path = "server"\ntimeout = {config["timeout_s"]}\n'
        f'test-command = "{test}"\n[cosmic-ray.distributor]\nname = "local"\n',
        encoding="utf-8",
    )
    command = [str(Path(sys.executable).with_name("cosmic-ray")), "exec", str(settings), session]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(tree / name) for name in ("server", ".")),
        "GUARD_TESTS_PATIENCE_S": str(config["patience_s"]),
    }
    subprocess.run(command, cwd=tree, env=environment, check=True)  # noqa: S603  (ours)
    with use_db(session, WorkDB.Mode.open) as work:
        return Counter(judged(work, tree, config["equivalent"]))


def copy_tree(tree: Path) -> None:
    """A copy of the server, which is changed, beside links to all else."""
    tree.mkdir(parents=True)
    for path in PROJECT.iterdir():
        if path.name == "server":
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, tree / path.name, ignore=ignored)
        elif not path.name.startswith("."):
            (tree / path.name).symlink_to(path)


def leave_out(work: WorkDB, config: dict[str, Any], percent: float) -> None:
    """Marks what is not tested, so that `exec` passes it over."""
    left_out: dict[Path, list[Range]] = {}
    OperatorsFilter()._skip_filtered(work, config["left_out_operators"])
    for item in list(work.pending_work_items):
        [mutation] = item.mutations
        path = mutation.module_path
        if path not in left_out:
            source = ast.parse(path.read_text(encoding="utf-8"))
            left_out[path] = list(silent(source, config["left_out_calls"]))
        inside = (start <= mutation.start_pos < end for start, end in left_out[path])
        if any(inside) or chance(f"{path.name}{item.mutations}") >= percent:
            work.set_result(item.job_id, LEFT_OUT)


def chance(mutant: str) -> float:
    """0 to 100, the same each time."""
    return 100 * random.Random(mutant).random()  # noqa: S311  (it keeps no secret)


def silent(source: ast.Module, calls: list[str]) -> Iterator[Range]:
    """Where a change changes no judgement: messages, logs, annotations, and a signature's `*`."""
    for node in ast.walk(source):
        match node:
            case ast.JoinedStr():
                yield place(node)
            case (
                ast.Call(func=ast.Attribute(value=ast.Name(id=name)))
                | ast.Call(func=ast.Name(id=name))
            ) if name in calls:
                yield place(node)
            case ast.AnnAssign() | ast.arg() if node.annotation is not None:
                yield place(node.annotation)
            case ast.FunctionDef() | ast.AsyncFunctionDef() if node.returns is not None:
                yield place(node.returns)
            case ast.arguments(kwonlyargs=[first, *_]):
                before = (*node.posonlyargs, *node.args, *node.defaults)
                ends = (place(one)[1] for one in before)
                yield max(ends, default=(first.lineno - 1, 0)), place(first)[0]


def place(node: ast.expr | ast.arg) -> Range:
    end = (node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
    return (node.lineno, node.col_offset), end


def judged(work: WorkDB, tree: Path, equivalent: list[list[str]]) -> Iterator[str]:
    """What became of each mutant that was tested."""
    known = {tuple(row[:3]) for row in equivalent}
    mutations = {item.job_id: item.mutations[0] for item in work.work_items}
    for job, result in work.results:
        if result.worker_outcome is WorkerOutcome.SKIPPED:
            continue
        module = str(mutations[job].module_path.relative_to(tree))
        lines = (result.diff or "").splitlines()
        was, becomes = (
            " ".join(
                line[1:].strip() for line in lines if line[:1] == sign and line[:3] != sign * 3
            )
            for sign in "-+"
        )
        outcome = outcome_of(result)
        if outcome == "survived" and (module, was, becomes) in known:
            outcome = "equivalent"
        if outcome in ("survived", "timeout"):
            print(f"{outcome}: {module}:{mutations[job].start_pos[0]}\n  - {was}\n  + {becomes}")
        yield outcome


def outcome_of(result: WorkResult) -> str:
    output = result.output or ""
    if result.test_outcome == TestOutcome.SURVIVED:
        return "survived"
    if output == "timeout":
        return "timeout"
    return "killed" if "\nFAILED " in output else "unusable"


if __name__ == "__main__":
    sys.exit(main())
