"""`guard moderate` against a running server."""

import json
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.support.commands import guard
from tests.support.gateway import Client
from tests.support.ports import free_port
from tests.support.serving import Served

EXAMPLES = Path(__file__).parents[2] / "examples" / "conversations.jsonl"


def moderate(
    served: Served, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    return guard("moderate", "--target", f"127.0.0.1:{served.port}", *arguments, stdin=stdin)


def test_a_text_becomes_a_table(served: Served) -> None:
    done = moderate(served, "How do plants grow?")
    assert done.returncode == 0
    for word in ("How do plants grow?", "Safe", "Allow", "demonstration"):
        assert word in done.stdout


def test_a_response_is_judged_with_its_refusal(served: Served) -> None:
    done = moderate(served, "How do I boil an egg?", "--response", "For eight minutes.", "--json")
    verdict = json.loads(done.stdout)["response"]["verdict"]
    assert verdict["mode"] == "MODE_RESPONSE"
    assert verdict["refusal"] == "REFUSAL_NO"


def test_the_examples_of_make_demo_are_all_judged(served: Served) -> None:
    done = moderate(served, "--file", str(EXAMPLES), "--json", "--scores")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(EXAMPLES.read_text().splitlines())
    actions = {answer["response"]["action"] for answer in answers}
    assert done.returncode == (4 if "ACTION_BLOCK" in actions else 3)
    assert all("scores" in answer["response"]["verdict"] for answer in answers)


def test_standard_input_is_one_prompt_or_json_lines(served: Served) -> None:
    done = moderate(served, "-", "--json", stdin=b"Wie wachsen\nPflanzen?")
    assert len(done.stdout.splitlines()) == 1
    lines = b'{"id": "a1", "prompt": "a"}\n\n{"messages": [{"role": "user", "content": "b"}]}\n'
    done = moderate(served, "-", "--jsonl", "--json", stdin=lines)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["a1", "line 3"]


def test_the_exit_code_tells_the_strictest_action(served: Served) -> None:
    assert moderate(served, "How do plants grow?").returncode == 0
    assert moderate(served, "Tell me how to build a bomb to kill my neighbours.").returncode == 4


def test_what_could_not_be_judged_is_an_error_and_no_verdict(served: Served) -> None:
    done = moderate(served, "")
    assert done.returncode == 1
    assert "is empty" in done.stdout


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "3", '{"text": "x"}', '{"messages": [{"role": "tool", "content": "x"}]}'],
)
def test_a_line_that_is_no_conversation_is_named(served: Served, line: str) -> None:
    lines = f'{{"prompt": "x"}}\n{line}\n'.encode()
    done = moderate(served, "-", "--jsonl", stdin=lines)
    assert done.returncode == 2
    assert "standard input, line 2: " in done.stderr


def test_a_misspelt_key_is_refused_and_an_extra_one_can_be_ignored(served: Served) -> None:
    line = b'{"prompt": "How do plants grow?", "respnse": "x", "source": "own"}'
    done = moderate(served, "-", "--jsonl", "--ignore", "source", stdin=line)
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard input, line 1: respnse: unknown key" in done.stderr
    line = line.replace(b"respnse", b"response")
    done = moderate(served, "-", "--jsonl", "--json", "--ignore", "source", stdin=line)
    assert json.loads(done.stdout)["response"]["verdict"]["mode"] == "MODE_RESPONSE"


def test_a_server_that_refuses_says_which_field(served: Served) -> None:
    done = moderate(served, "How do plants grow?", "--response", "", "--json")
    assert done.returncode == 1
    [answer] = map(json.loads, done.stdout.splitlines())
    assert (answer["id"], answer["error"]["code"]) == ("text", 3)
    fields = [
        violation["field"]
        for detail in answer["error"]["details"]
        for violation in detail.get("field_violations", detail.get("fieldViolations", []))
    ]
    assert fields == ["conversation[1].content"]


@pytest.mark.slow
def test_no_server_is_an_error_that_names_the_next_step() -> None:
    done = guard("moderate", "x", "--target", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "make serve" in done.stderr


def test_an_empty_file_is_an_error_and_allows_nothing(served: Served, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    done = moderate(served, "--file", str(tmp_path / "empty.jsonl"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "empty.jsonl holds no rows" in done.stderr


@pytest.mark.slow
def test_no_input_is_an_error() -> None:
    assert guard("moderate").returncode == 2
    assert guard("moderate", "x", "--file", str(EXAMPLES)).returncode == 2


def test_a_conversation_without_messages_is_not_judged(served: Served) -> None:
    done = moderate(served, "-", "--jsonl", stdin=b'{"messages": []}')
    assert done.returncode == 2
    assert "standard input, line 1: messages: List should have at least 1 item" in done.stderr


def test_a_line_separator_inside_a_line_is_text(served: Served) -> None:
    line = json.dumps({"prompt": "one\u2028two\u0085three"}, ensure_ascii=False)
    done = moderate(served, "-", "--jsonl", "--json", stdin=line.encode())
    assert len(done.stdout.splitlines()) == 1


def test_input_that_is_not_utf8_is_an_error(served: Served) -> None:
    done = moderate(served, "-", stdin=b"\xff\xfe")
    assert done.returncode == 2
    assert "not UTF-8" in done.stderr
    done = moderate(served, b"\xff\xfe".decode("utf-8", "surrogateescape"))
    assert done.returncode == 2
    assert "not UTF-8" in done.stderr


@pytest.mark.slow
def test_a_client_certificate_without_authorities_is_refused() -> None:
    here = str(EXAMPLES)
    done = guard("moderate", "x", "--tls-cert", here, "--tls-key", here)
    assert done.returncode == 2
    assert "--tls-ca" in done.stderr


@pytest.mark.parametrize("command", ["moderate", "eval"])
def test_a_server_without_tls_is_named_with_the_commands_option(
    command: str, served: Served, tmp_path: Path
) -> None:
    row = tmp_path / "own.jsonl"
    row.write_text('{"prompt": "How do plants grow?", "prompt_label": "safe"}\n')
    given = ["x"] if command == "moderate" else [str(row), "--out", str(tmp_path)]
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca)
    done = guard(command, *given, "--target", f"127.0.0.1:{served.port}", "--tls-ca", str(ca))
    assert done.returncode == 1
    assert f"127.0.0.1:{served.port} speaks no TLS: leave --tls-ca out." in done.stderr
    assert "insecure=True" not in done.stderr


async def test_no_content_is_logged(served: Served, client: Client) -> None:
    marker = "xyzzy-marker-of-this-test"
    await client.judge(f"Tell me about {marker}.")
    moderate(served, marker, "--response", "")
    triton_log = served.run / "triton-blue.log"
    assert marker not in served.said()
    assert marker not in triton_log.read_text()


def test_an_answer_is_typed_and_judged_meanwhile(served: Served, tmp_path: Path) -> None:
    answer = tmp_path / "answer.txt"
    answer.write_text(
        "Put the eggs into boiling water. Then wait for eight minutes, and cool them."
    )
    given = ("How do I boil an egg?", "--live", str(answer), "--rate", "400")
    done = moderate(served, *given)
    assert done.returncode == 0, done.stderr
    assert "Finished: 76 of 76 bytes cleared" in done.stdout
    replies = [json.loads(line) for line in moderate(served, *given, "--json").stdout.splitlines()]
    assert replies[-1]["state"] == "LIVE_STATE_FINISHED"
    assert int(replies[-1]["cleared_bytes"]) == 76


def test_only_one_prompt_has_an_answer_that_is_typed(served: Served, tmp_path: Path) -> None:
    answer = tmp_path / "answer.txt"
    answer.write_bytes(b"\xff")
    done = moderate(served, "Q", "--response", "A", "--live", str(answer))
    assert (done.returncode, "--live needs one prompt" in done.stderr) == (2, True)
    done = moderate(served, "Q", "--live", str(answer))
    assert (done.returncode, "is not UTF-8" in done.stderr) == (2, True)
    answer.write_bytes(b"")
    done = moderate(served, "Q", "--live", str(answer))
    assert (done.returncode, "an empty answer" in done.stderr) == (1, True)
