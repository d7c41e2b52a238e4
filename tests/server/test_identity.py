"""Who a caller is to the gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import trustme

from guard_server.identity import address_identity, identity_of
from guard_server.routing.caller import Identity


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("ipv4:192.0.2.7:50000", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50000", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2:ffff::1]:50000", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50000", "fe80::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:50000", "192.0.2.7"),
        ("ipv6:%5B::1%5D:50000", "::/64"),
        ("unix:", "unix"),
    ],
)
def test_an_address_is_an_identity_whatever_its_port(peer: str, name: str) -> None:
    assert address_identity(peer) == Identity("address", name)


async def test_a_certificates_names_are_the_identity_and_else_the_address() -> None:
    authority = trustme.CA()
    server, root = authority.issue_cert("localhost"), authority.cert_pem.bytes()
    callers = {
        name: authority.issue_cert(*names, common_name=common_name)
        for name, names, common_name in [
            ("two", ["one@example.org", "two.example.org"], "ignored"),
            ("common", [], "common"),
        ]
    }
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())], root, True
    )
    found: list[Identity] = []
    async with recording(found, credentials) as (plain, secure):
        for caller in callers.values():
            named = grpc.ssl_channel_credentials(
                root, caller.private_key_pem.bytes(), caller.cert_chain_pems[0].bytes()
            )
            async with grpc.aio.secure_channel(f"localhost:{secure}", named) as channel:
                await ask(channel)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{plain}") as channel:
            await ask(channel)
    assert found == [
        Identity("certificate", "one@example.org,two.example.org"),
        Identity("certificate", "common"),
        Identity("address", "127.0.0.1"),
    ]


async def ask(channel: Any) -> None:
    await channel.unary_unary("/S/M")(b"")


@asynccontextmanager
async def recording(
    found: list[Identity], credentials: grpc.ServerCredentials
) -> AsyncIterator[tuple[int, int]]:
    """A server that records who calls it, on a plain port and a secure one."""

    async def record(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        found.append(identity_of(context))
        return b""

    server = grpc.aio.server()
    method: Any = grpc.unary_unary_rpc_method_handler(record)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("S", {"M": method}),))
    plain = server.add_insecure_port("127.0.0.1:0")
    secure = server.add_secure_port("localhost:0", credentials)
    await server.start()
    try:
        yield plain, secure
    finally:
        await server.stop(0)
