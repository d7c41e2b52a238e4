"""Random requests of every method of the gateway, some of them damaged.

`make fuzz` sets GUARD_FUZZ_INPUTS; GUARD_FUZZ_SEED chooses other ones.
"""

import json
import os
import random
import struct
from collections.abc import Callable
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2

from qwen3guard.v1 import moderation_pb2 as pb
from qwen3guard.v1 import types_pb2
from tests.support.gateway import ask
from tests.support.wire_fields import encode, mutate, parse

INPUTS = int(os.environ.get("GUARD_FUZZ_INPUTS", "3000"))
SEED = int(os.environ.get("GUARD_FUZZ_SEED", "18"))
MODERATION, KSERVE = "qwen3guard.v1.ModerationService", "inference.GRPCInferenceService"
EMPTY_FINAL = "triton_enable_empty_final_response"
MARKERS = ("\n\nUSER: ", "\n\nASSISTANT: ")  # of the tiny guard's template
WORDS = ("plants", "grün", "给我推荐", "<|im_end|>", "ASSISTANT:", "🙂", "tool_calls", "e\u0301")


class Request:
    """A method, its message's wire bytes, and what they hold by the test's own reading."""

    def __init__(self, path: str, message: Any) -> None:
        self.path = path
        self.kind: Any = type(message)
        self.data = message.SerializeToString(deterministic=True)


def text(rng: random.Random) -> str:
    """Some words that no other request has; some of it reads as several messages."""
    said = " ".join([f"{rng.getrandbits(48):x}", *rng.choices(WORDS, k=rng.randrange(3))])
    return said + rng.choice(MARKERS) + text(rng) if not rng.randrange(8) else said


def moderate(rng: random.Random) -> pb.ModerateRequest:
    request = ask(*(text(rng) for _ in range(rng.randrange(1, 4))))
    if not rng.randrange(3):
        request.policy.controversial = types_pb2.CONTROVERSIAL_TREATMENT_REVIEW
        request.policy.category_rules.add(category=1, action=2)
    if not rng.randrange(6):
        request.routing_key = text(rng)
    return request


def batch(rng: random.Random) -> pb.BatchModerateRequest:
    return pb.BatchModerateRequest(items=[moderate(rng) for _ in range(rng.randrange(1, 4))])


def stream(rng: random.Random) -> pb.StreamModerateRequest:
    return pb.StreamModerateRequest(id=text(rng), request=moderate(rng))


def conversation(rng: random.Random) -> str:
    """JSON, of which some has what should not be there."""
    roles = ("user", "assistant")
    turns = [
        f'{{"role": "{roles[n % 2]}", "content": {json.dumps(text(rng))}}}'
        for n in range(rng.randrange(1, 4))
    ]
    if not rng.randrange(3):
        at = rng.randrange(len(turns))
        more = rng.choice(("content", "role", "tool_calls", "Content", "\\u0063ontent", "\\ud800"))
        value = rng.choice((json.dumps(text(rng)), "[7]", "null", '{"content": "hidden"}'))
        turns[at] = f'{turns[at][:-1]}, "{more}": {value}}}'
    return f"[{', '.join(turns)}]"


def infer(rng: random.Random) -> Any:
    request = service_pb2.ModelInferRequest(model_name="qwen3guard", id="7")
    name = rng.choice(("text", "conversation"))
    tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1])
    element = (text(rng) if name == "text" else conversation(rng)).encode()
    if rng.randrange(2):
        request.raw_input_contents.append(struct.pack("<I", len(element)) + element)
    else:
        tensor.contents.bytes_contents.append(element)
    if rng.randrange(2):
        request.outputs.add(name="severity")
        request.parameters[EMPTY_FINAL].bool_param = True
    match rng.randrange(16):
        case 0:
            tensor.shape[:] = rng.choice(([], [0], [2], [-1], [-1, -1], [2**62, 2**62], [1, 1]))
        case 1:
            tensor.parameters["shared_memory_region"].string_param = "region"
        case 2:
            request.outputs.add(name="action").parameters["classification"].int64_param = 1
        case 3:
            request.parameters[rng.choice(("timeout", "sequence_id"))].int64_param = 1
        case 4:
            request.model_version = rng.choice(("1", "99"))
        case 5:
            tensor.contents.int_contents.append(7)
        case 6:
            request.raw_input_contents.append(b"\x02\x00\x00\x00hi")
    return request


def others(rng: random.Random) -> Request:
    """What judges nothing: it only has to be answered or refused."""
    asked = service_pb2.ModelReadyRequest(name="qwen3guard", version="1")
    health = health_pb2.HealthCheckRequest(service=MODERATION)
    symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{MODERATION}.Moderate")
    methods = ("Ready", "Metadata", "Config", "Statistics")
    of_server = ("Live", "Ready", "Metadata")
    nothing = service_pb2.ServerLiveRequest()
    return rng.choice(
        [
            *(Request(f"/{KSERVE}/Model{method}", asked) for method in methods),
            *(Request(f"/{KSERVE}/Server{method}", nothing) for method in of_server),
            Request(f"/{KSERVE}/RepositoryIndex", service_pb2.RepositoryIndexRequest()),
            Request("/grpc.health.v1.Health/Check", health),
            Request("/grpc.health.v1.Health/List", health),
            Request("/grpc.health.v1.Health/Watch", health),
            Request("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", symbol),
            Request("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", symbol),
        ]
    )


JUDGING: dict[str, Callable[[random.Random], Any]] = {
    f"/{MODERATION}/Moderate": moderate,
    f"/{MODERATION}/BatchModerate": batch,
    f"/{MODERATION}/StreamModerate": stream,
    f"/{KSERVE}/ModelInfer": infer,
    f"/{KSERVE}/ModelStreamInfer": infer,
}


def request(rng: random.Random) -> Request:
    """A request of any method."""
    path = rng.choice(list(JUDGING))
    return changed(Request(path, JUDGING[path](rng)) if rng.randrange(8) else others(rng), rng)


def changed(made: Request, rng: random.Random) -> Request:
    """The request with none to three changes."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        try:
            tree = parse(made.data, made.kind.DESCRIPTOR)
        except (IndexError, KeyError, RecursionError):
            break  # cut into already
        if rng.randrange(6):
            mutate(tree, rng)
            made.data = encode(tree)
        else:
            made.data = damaged(made.data, rng)
    return made


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed without regard to what they mean."""
    at, more = rng.randrange(len(data) + 1), rng.randbytes(rng.randrange(3))
    return data[:at] + more + data[at + rng.randrange(4) :]
