"""Ports: whether one is free, and the message if it is not."""

import socket


def cannot_listen(host: str, port: int, reason: object, option: str) -> OSError:
    """The error to raise when the system refuses an address; `option` changes its port."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return OSError(
        f"Can't listen on {address}: is the port in use? ({reason}) Stop what listens there, or "
        f"choose another port by {option}."
    )


def check_port(host: str, port: int, option: str) -> None:
    """Raises OSError if another process listens there.

    A port that several processes share by SO_REUSEPORT would otherwise hide it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise cannot_listen(host, port, error.strerror, option) from None
