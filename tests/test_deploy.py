"""The containers' files: linted, and safe by default. Docker itself is not needed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from ruamel.yaml import YAML

from guard_control.gateways.fleet_file import ConfigMapTraffic, FleetFile, GatewayDns
from guard_control.host.child_process import children
from guard_core.slot import traffic
from guard_core.slot.manifest import Manifest
from guard_core.slot.traffic import TritonDns
from guard_server import probe
from guard_server.settings import Settings
from guard_server.telemetry.catalogue import CATALOGUE
from tests.support.commands import GUARD, start
from tests.support.ports import free_port
from tests.support.serving import Served

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DOCKERFILES = ("deploy/Dockerfile.gpu", "deploy/Dockerfile.gateway", "deploy/Dockerfile.cpu")
COMPOSE = PROJECT / "deploy" / "compose.yaml"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    done = run(str(BIN / "hadolint"), name)
    assert done.returncode == 0, done.stdout


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN sudo apt-get install curl\n")
    assert run(str(BIN / "hadolint"), str(tmp_path / "Dockerfile")).returncode == 1


def copied(name: str, folder: Path) -> Path:
    """What an image has of the project, by its Dockerfile's COPY lines."""
    lines = re.findall(r"^COPY (?!--)(.+) (\S+)$", (PROJECT / name).read_text(), re.MULTILINE)
    for sources, destination in lines:
        for source in sources.split():
            target = folder / destination / (source if destination == "./" else "")
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (PROJECT / source).is_dir() else shutil.copy
            copy(PROJECT / source, target)
    return folder


def imported(modules: list[str], *paths: str) -> list[str]:
    """The files that `modules` come from, with the dependencies but without what .pth files add:
    this checkout's own packages."""
    script = (
        f"import sys; sys.path += sys.argv[1:]; import {', '.join(modules)}; "
        f"print(*(sys.modules[name].__file__ for name in {modules}), sep='\\n')"
    )
    done = run(sys.executable, "-S", "-c", script, *paths, str(Path(grpc.__file__).parents[1]))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_gpu_image_has_all_that_the_command_imports(tmp_path: Path) -> None:
    image = copied("deploy/Dockerfile.gpu", tmp_path)
    packages = [str(path) for path in (image / "clients" / "python", *image.iterdir())]
    found = (image / "cli" / "guard_cli" / "commands").glob("[!_]*.py")
    commands = [f"guard_cli.commands.{path.stem}" for path in found]
    assert "guard_cli.commands.serve" in commands
    assert all(path.startswith(str(image)) for path in imported(commands, *packages))
    assert (image / "build" / "guard_build" / "templates" / "config.pbtxt.jinja").is_file()


@pytest.mark.slow
def test_the_gateways_image_has_the_gateway_and_its_version(tmp_path: Path) -> None:
    image, site = copied("deploy/Dockerfile.gateway", tmp_path / "image"), tmp_path / "site"
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    ours = [str(image / "clients" / "python"), str(image)]
    done = run(sys.executable, *install, "--target", str(site), *ours)
    assert done.returncode == 0, done.stderr
    assert {path.name.partition("-")[0] for path in site.glob("*.dist-info")} == {
        "qwen3guard_client",
        "qwen3guard_server",
    }
    [path] = imported(["guard_server.app"], str(site))
    assert path.startswith(str(site))


def test_what_the_images_and_manifests_set_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = YAML(typ="safe")
    [gateway, _] = yaml.load_all(PROJECT / "deploy" / "kubernetes" / "gateway.yaml")
    pod = gateway["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False  # a Service called guard would set GUARD_PORT
    [container] = pod["containers"]
    kubernetes = {each["name"]: each["value"] for each in container["env"]}
    compose = yaml.load(COMPOSE)["x-gateway"]["environment"]
    of_image = re.findall(r"(GUARD_\w+)=(\S+)", (PROJECT / "deploy/Dockerfile.gateway").read_text())
    for environment in (kubernetes, compose):
        with monkeypatch.context() as patch:
            for name, value in (*of_image, *environment.items()):
                patch.setenv(name, value)
            assert Settings().host == "0.0.0.0"
    shown = traffic.load(PROJECT / "deploy" / "kubernetes" / "traffic.json")
    assert shown.weights == {"blue": 100}
    services = yaml.load_all(PROJECT / "deploy" / "kubernetes" / "triton.yaml")
    running = {each["metadata"]["name"]: each for each in services if each["kind"] == "Service"}
    for slot in shown.slots.values():
        assert isinstance(slot.triton, TritonDns)
        name, _, port = slot.triton.dns.partition(":")
        service = running[name]["spec"]
        assert service["clusterIP"] == "None"  # else the name has one address
        assert [each["port"] for each in service["ports"]] == [int(port)]


def test_a_slots_pods_come_before_others_go() -> None:
    found = {
        (each["kind"], each["metadata"]["name"]): each["spec"]
        for each in manifests()
        if "spec" in each
    }
    deployment = found["Deployment", "triton-blue"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pod = deployment["template"]["spec"]
    [container] = pod["containers"]
    seconds = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert seconds > 2 * 5  # gateways ask for the name's addresses every five
    longest = Settings.model_fields["request_timeout_s"].default
    assert pod["terminationGracePeriodSeconds"] >= seconds + longest
    budget = found["PodDisruptionBudget", "triton-blue"]["selector"]["matchLabels"]
    assert budget.items() <= deployment["template"]["metadata"]["labels"].items()


def test_autoscalers_read_what_gateways_measure() -> None:
    folder = PROJECT / "deploy" / "kubernetes" / "autoscaling"
    keda, hpa = (YAML(typ="safe").load(folder / f"{name}.yaml")["spec"] for name in ("keda", "hpa"))
    assert keda["scaleTargetRef"]["name"] == hpa["scaleTargetRef"]["name"] == "triton-blue"
    query = keda["triggers"][0]["metadata"]["query"]
    asked = set(re.findall(r"guard_\w+", query))
    # Four gateways that each may ask for all that an engine takes are no four engines.
    bound = r"clamp_max\(sum\(guard_limit{[^}]*}\), 64 \* .*guard_replica_ready"
    assert re.search(bound, query)
    assert asked == {"guard_in_flight", "guard_queued", "guard_limit", "guard_replica_ready"}
    assert asked <= {metric.served for metric in CATALOGUE.values()}


def test_every_setting_is_documented() -> None:
    page = (PROJECT / "docs" / "gateway.md").read_text()
    documented = set(re.findall(r"`GUARD_(\w+)`", page))
    assert documented == {name.upper() for name in Settings.model_fields}


def lint_compose(path: Path) -> subprocess.CompletedProcess[str]:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    return run(str(BIN / "check-jsonschema"), *schema, str(path))


def test_compose_is_in_its_schema(tmp_path: Path) -> None:
    done = lint_compose(COMPOSE)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("profiles:", "profile:"))
    assert lint_compose(wrong).returncode == 1


def test_compose_is_safe_by_default() -> None:
    services: dict[str, Any] = YAML(typ="safe").load(COMPOSE)["services"]
    assert {profile for each in services.values() for profile in each["profiles"]} == {"gpu", "cpu"}
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        path = COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]
        assert path.is_file(), name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "ipc" not in service and "sockets:/sockets" in service["volumes"]
        if name.startswith("gateway"):
            assert service["read_only"]
            socket = service["environment"]["GUARD_TRITON"].removeprefix("unix:")
            engine = services[service["depends_on"][0]]
            assert f"{engine['command'][-1]}:18001" == socket  # that of `guard engine`
            assert engine["network_mode"] == "none"


def manifests() -> list[dict[str, Any]]:
    paths = sorted((PROJECT / "deploy" / "kubernetes").glob("*.yaml"))
    return [each for path in paths for each in YAML(typ="safe").load_all(path)]


def test_the_pods_run_with_no_rights_that_they_do_not_need() -> None:
    deployments = [each for each in manifests() if each["kind"] == "Deployment"]
    assert len(deployments) == 2
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_only_the_gateway_reaches_triton() -> None:
    found = {
        (each["kind"], each["metadata"]["name"]): each for each in manifests() if "metadata" in each
    }
    labels = {
        name: each["spec"]["template"]["metadata"]["labels"]
        for (kind, name), each in found.items()
        if kind == "Deployment"
    }
    policy = found["NetworkPolicy", "guard-triton"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels["triton-blue"].items()
    assert policy["policyTypes"] == ["Ingress", "Egress"] and policy["egress"] == []
    [rule] = policy["ingress"]
    [peer] = rule["from"]
    assert peer["podSelector"]["matchLabels"].items() <= labels["guard-gateway"].items()
    assert rule["ports"] == [{"protocol": "TCP", "port": 8001}]


def test_rollouts_reach_the_gateways_and_may_change_the_traffic_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, yaml = PROJECT / "deploy" / "kubernetes" / "rollouts", YAML(typ="safe")
    found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.load_all(
        folder / "rollouts.yaml"
    )}  # fmt: skip
    fleet = FleetFile.model_validate(yaml.load(folder / "fleet.yaml"))
    assert isinstance(fleet.traffic, ConfigMapTraffic) and isinstance(fleet.gateways, GatewayDns)
    [rule] = found["Role", "guard-rollout"]["rules"]
    assert rule["resourceNames"] == [fleet.traffic.config_map.name]
    assert (rule["resources"], rule["verbs"]) == (["configmaps"], ["get", "update"])
    assert found["RoleBinding", "guard-rollout"]["roleRef"]["name"] == "guard-rollout"
    name, _, port = fleet.gateways.dns.partition(":")
    service = found["Service", name]["spec"]
    assert service["clusterIP"] == "None" and service["ports"][0]["port"] == int(port)
    [gateway, _] = yaml.load_all(PROJECT / "deploy" / "kubernetes" / "gateway.yaml")
    [of_gateway] = gateway["spec"]["template"]["spec"]["containers"]
    [patch] = yaml.load(folder / "gateway-status.yaml")["spec"]["template"]["spec"]["containers"]
    assert patch["name"] == of_gateway["name"]
    for each in (*of_gateway["env"], *patch["env"]):
        monkeypatch.setenv(each["name"], each["value"])
    assert Settings().status_port == int(port)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_no_container_of_ours_runs_as_root(name: str) -> None:
    text = (PROJECT / name).read_text()
    assert text.rindex("\nUSER 10001\n") > text.rindex("\nRUN ")
    assert "useradd --system --uid 10001" in text and "install -d -m 700 -o guard /sockets" in text


@pytest.mark.parametrize("target", ["gpu-build", "gpu-serve"])
def test_make_targets(target: str) -> None:
    done = run("make", "-n", target, "FORMAT=w8a8", "SLOT_NAME=green")
    assert done.returncode == 0
    assert "green" in done.stdout
    assert ("--format w8a8" in done.stdout) == (target == "gpu-build")


def test_the_manifests_schema_is_the_one_that_is_published() -> None:
    path = PROJECT / "docs" / "reference" / "manifest.schema.json"
    assert path.read_text() == json.dumps(Manifest.model_json_schema(), indent=2) + "\n"


def test_the_probe(served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GUARD_SLOT", str(tmp_path))
    monkeypatch.setenv("GUARD_TRITON", "127.0.0.1:1")
    monkeypatch.setenv("GUARD_PORT", str(served.port))
    assert probe.main() == 0
    monkeypatch.setenv("GUARD_PORT", "1")
    assert probe.main() == 1


@pytest.mark.triton
def test_the_engine_alone(blue: Path, tmp_path: Path) -> None:
    port, socket = free_port(), tmp_path / "triton"
    command = [GUARD, "engine", "--slot", blue, "--port", str(port), "--socket", socket]
    with start(command, tmp_path / "output.txt") as running:
        while "Triton serves" not in running.said():
            assert not running.ended(), running.said()
            time.sleep(0.05)
        assert f"on unix:{socket}:{port};" in running.said()
        assert not Path(f"{socket}:{port}").stat().st_mode & 0o077
        [triton] = children(running.pid)
        os.kill(triton, signal.SIGKILL)
        while "Triton runs again" not in running.said():
            assert not running.ended(), running.said()
            time.sleep(0.05)
        running.signal(signal.SIGTERM)
        assert running.process.wait(60) == 0
    assert "Stopped." in running.said()
    # deploy/gpu-acceptance.sh copies the engine's log from there.
    assert f".run/triton-{blue.name}.log" in running.said()
