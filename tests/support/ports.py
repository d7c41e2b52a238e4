"""Ports for the servers that a test starts."""

import socket


def free_port() -> int:
    """A port of 127.0.0.1 that the system gives to no other process for a minute.

    A connection to it was closed from its side, so the port waits (TIME_WAIT): it is neither given
    to a process that asks for any port nor used for an outgoing call, in this process or another.
    What asks for it by its number gets it, by SO_REUSEADDR, which all our servers and Triton set.
    """
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        accepted.close()
        client.recv(1)  # until its end has arrived: only then may this side close
        port: int = server.getsockname()[1]
        return port
