"""The shape of the project, where a test can hold it: arrows one way, small parts, unique names."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGES = {
    "qwen3guard": "clients/python/qwen3guard",
    "qwen3guard_client": "clients/python/qwen3guard_client",
    "guard_core": "server/guard_core",
    "guard_server": "server/guard_server",
    "guard_control": "server/guard_control",
    "guard_engine": "engine/guard_engine",
    "guard_build": "build/guard_build",
    "guard_bench": "bench/guard_bench",
    "guard_eval": "eval/guard_eval",
    "guard_cli": "cli/guard_cli",
    "guard_tiny": "training/guard_tiny",
}
# docs/architecture.md draws the same arrows.
ARROWS = {
    "qwen3guard": set(),
    "qwen3guard_client": {"qwen3guard"},
    "guard_core": set(),
    "guard_server": {"qwen3guard", "guard_core"},
    "guard_control": {"qwen3guard", "guard_core", "guard_server", "guard_eval"},
    "guard_engine": set(),
    "guard_build": {"guard_engine", "guard_core", "guard_eval"},
    "guard_bench": {"qwen3guard", "qwen3guard_client", "guard_engine", "guard_build", "guard_core"},
    "guard_eval": {"qwen3guard", "qwen3guard_client", "guard_core"},
    "guard_cli": {
        *("qwen3guard", "qwen3guard_client", "guard_core", "guard_server", "guard_control"),
        *("guard_build", "guard_bench", "guard_eval"),
    },
    "guard_tiny": {"guard_core"},
}
# Inside the packages that serve: folders, and modules beside them by their names.
INSIDE = {
    "guard_core": {
        "errors": set(),
        "schema": set(),
        "files": set(),
        "conversation": set(),
        "stats": {"verdict"},
        "engine": {"errors"},
        "balancing": set(),
        "verdict": {"errors", "conversation", "engine"},
        "live": {"errors", "verdict"},
        "slot": {"errors", "schema", "files", "conversation", "engine", "verdict"},
        "tenants": {"errors", "schema", "files", "slot", "verdict"},
    },
    "guard_server": {
        "listener_settings": set(),
        "settings": {"listener_settings"},
        "log": set(),
        "tuning": set(),
        "drain": set(),
        "listening": set(),
        "status_codes": set(),
        "probe": {"settings", "tls"},
        "tls": {"settings", "api", "pipeline", "refusing"},
        "routing": set(),
        "pipeline": {"routing"},
        "telemetry": {"pipeline", "routing", "status_codes", "tenants", "tls"},
        "identity": {"routing"},
        "api": {"pipeline", "routing", "drain", "status_codes", "identity"},
        "tenants": {"settings", "identity", "pipeline", "routing"},
        "refusing": {"api", "pipeline", "identity"},
        "receiving": {"api", "pipeline", "routing", "refusing", "identity"},
        "gateway_status": {"api", "listening", "routing", "settings", "telemetry", "tls"},
        "grpc_listener": {"api", "listening", "pipeline", "settings", "tls"},
        "wiring": {
            *("api", "pipeline", "routing", "telemetry", "tenants", "tls"),
            *("settings", "tuning", "drain", "grpc_listener", "refusing"),
            "receiving",
        },
        "app": {"gateway_status", "settings", "tuning", "telemetry", "wiring"},
        "__main__": {"app", "settings", "log"},
    },
    "guard_control": {
        "errors": set(),
        "events": set(),
        "keeper": {"events"},
        "rollback_target": set(),
        "host": set(),
        "loaded_model": set(),
        "engine_probe": {"loaded_model"},
        "triton_wheel": set(),
        "triton_process": {"host", "loaded_model", "triton_wheel"},
        "triton_watch": {"events", "host", "loaded_model", "triton_process"},
        "kept_triton": {"events", "keeper", "triton_process", "triton_watch"},
        "slot_processes": {"events", "host", "kept_triton", "triton_process"},
        "traffic_files": {"events", "host"},
        "gateway_workers": {"events", "host", "keeper"},
        "fleets": {
            *("errors", "events", "rollback_target", "traffic_files"),
            *("slot_processes", "triton_process", "gateway_workers"),
        },
        "stores": set(),
        "gateways": {"errors", "events", "fleets", "rollback_target", "stores"},
        "rollout": {"errors", "events", "fleets"},
        "api": {"errors", "events", "fleets", "gateways", "rollout", "slot_processes", "stores"},
        "supervisor": {
            *("api", "events", "fleets", "host"),
            *("slot_processes", "gateway_workers", "traffic_files"),
        },
    },
}
SERVER_SIDE = {"guard_server", "guard_control", "qwen3guard", "grpc_health", "grpc_reflection"}
TRAINING_ONLY = {"torch", "transformers", "sklearn"}
HEAVY = ("openvino", "huggingface_hub", "matplotlib", "guard_engine")
# Names that say the same in every package.
SAME_EVERYWHERE = {"__init__", "__main__", "errors", "_errors", "slot", "api"}
MOST_MODULES, MOST_LINES, MOST_TEST_LINES, MOST_FUNCTION_LINES = 15, 260, 400, 60


def modules(package: str) -> list[Path]:
    found = (PROJECT / PACKAGES[package]).rglob("*.py")
    return sorted(path for path in found if "_pb2" not in path.name)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a module imports, wherever in it."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def part_and_used(package: str, path: Path) -> tuple[str, set[str]]:
    """The part of the package that a module is in, and the other parts that it imports.

    Parts are the package's folders, and the modules beside them.
    """
    part = path.relative_to(PROJECT / PACKAGES[package]).parts[0].removesuffix(".py")
    inside = (name.split(".") for name in imported(path) if name.startswith(f"{package}."))
    return part, {names[1] for names in inside} - {part}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package: str) -> None:
    for path in modules(package):
        found = {name.split(".")[0] for name in imported(path)} & set(PACKAGES) - {package}
        assert found <= ARROWS[package], path


def test_the_arrows_make_no_circle() -> None:
    reached: dict[str, set[str]] = {}

    def below(package: str, above: tuple[str, ...]) -> set[str]:
        assert package not in above, (*above, package)
        if package not in reached:
            reached[package] = set().union(
                *({one} | below(one, (*above, package)) for one in ARROWS[package])
            )
        return reached[package]

    for package in ARROWS:
        below(package, ())


@pytest.mark.parametrize("package", INSIDE)
def test_imports_inside_a_package_follow_its_arrows(package: str) -> None:
    for path in modules(package):
        part, used = part_and_used(package, path)
        if part != "__init__":
            assert used <= INSIDE[package][part], path


@pytest.mark.parametrize("package", PACKAGES)
def test_the_parts_of_a_package_make_no_circle(package: str) -> None:
    uses: dict[str, set[str]] = defaultdict(set)
    for path in modules(package):
        part, used = part_and_used(package, path)
        uses[part] |= used
    while done := {part for part in uses if not uses[part] & set(uses)}:
        for part in done:
            del uses[part]
    assert not uses


def test_the_core_knows_no_server_and_no_contract() -> None:
    for path in modules("guard_core"):
        names = set(imported(path))
        assert not {name.split(".")[0] for name in names} & SERVER_SIDE, path
        assert not any(name.startswith("grpc.aio.server") for name in names), path


def test_only_training_needs_what_only_training_has() -> None:
    for package in PACKAGES:
        if package != "guard_tiny":
            for path in modules(package):
                assert not TRAINING_ONLY & {name.split(".")[0] for name in imported(path)}, path


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["guard_control.supervisor", "guard_cli.main", "guard_server.app"]
)
def test_what_serves_loads_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_folder_of_code_is_crowded() -> None:
    folders: dict[Path, int] = defaultdict(int)
    tests = (PROJECT / "tests").rglob("*.py")
    for path in (*(path for package in PACKAGES for path in modules(package)), *tests):
        # pytest's files have names of their own: a folder of tests is a list.
        folders[path.parent] += path.stem != "__init__" and not path.stem.startswith("test_")
    assert {str(f): n for f, n in folders.items() if n > MOST_MODULES} == {}


def test_one_basename_has_one_meaning() -> None:
    seen: dict[str, list[str]] = defaultdict(list)
    for package in PACKAGES:
        for path in modules(package):
            if path.stem not in SAME_EVERYWHERE:
                seen[path.stem].append(str(path.relative_to(PROJECT)))
    assert {name: paths for name, paths in seen.items() if len(paths) > 1} == {}


def test_one_class_name_is_one_class() -> None:
    seen: dict[str, list[str]] = defaultdict(list)
    # The client's names are its callers'; training is never imported beside the others.
    for package in set(PACKAGES) - {"qwen3guard_client", "guard_tiny"}:
        for path in modules(package):
            for node in parsed(path).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    seen[node.name].append(str(path.relative_to(PROJECT)))
    assert {name: paths for name, paths in seen.items() if len(paths) > 1} == {}


def test_no_module_is_long() -> None:
    long = {}
    for path in sorted(PROJECT.glob("*/**/*.py")):
        name = path.relative_to(PROJECT)
        if "_pb2" in path.name or name.parts[0].startswith("."):
            continue
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > (MOST_TEST_LINES if name.parts[0] == "tests" else MOST_LINES):
            long[str(name)] = lines
    assert long == {}


def test_no_function_is_long() -> None:
    long = {}
    for package in PACKAGES:
        for path in modules(package):
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    # A command's options are its parameters: they don't count.
                    first = node.body[0].lineno
                    length = (node.end_lineno or first) - first + 1
                    if length > MOST_FUNCTION_LINES:
                        long[f"{path.relative_to(PROJECT)}:{node.name}"] = length
    assert long == {}


def test_no_test_is_left_out(pytestconfig: pytest.Config) -> None:
    """pytest passes over folders by their names: by default over `build`."""
    left_out = pytestconfig.getini("norecursedirs")
    for path in (PROJECT / "tests").rglob("test_*.py"):
        for folder in path.relative_to(PROJECT).parts[:-1]:
            assert not any(Path(folder).match(pattern) for pattern in left_out), path
