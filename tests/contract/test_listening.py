"""On which addresses a server listens."""

import errno
import os
import socket

import pytest
from tests.servers import Server

from sampler_server import listening


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_a_star_is_all_interfaces_of_both_families() -> None:
    with Server("--host", "*") as server:
        assert server.manage.get("/readyz")[0] == 200
        assert server.status()["replica"] == f"{socket.gethostname()}:{server.data.number}"
        if has_ipv6():
            for port in (server.data.number, server.manage.number):
                socket.create_connection(("::1", port)).close()
        # Loopback is known as such also where it is shown as an IPv6 address.
        assert server.manage.post("/drain")[0] == 202


def test_several_engines_listen_on_all_interfaces() -> None:
    with Server("--host", "*", "--engines", "2") as server:
        assert all(engine["port"] for engine in server.announced["engines"])


@pytest.mark.parametrize("missing", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_a_star_is_every_ipv4_address(
    missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kernel(socket.socket):
        """One without IPv6."""

        def __init__(self, family: int, kind: int) -> None:
            if family == socket.AF_INET6:
                raise OSError(missing, os.strerror(missing))
            super().__init__(family, kind)

    monkeypatch.setattr("sampler_server.listening.socket.socket", Kernel)
    with listening.bind("*", 0) as bound:
        assert bound.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "*"])
def test_a_taken_port_is_named_with_its_host(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = listening.port_of(taken)
        with pytest.raises(OSError, match=rf"{'[*]' if host == '*' else host}:{port}: Address alr"):
            listening.bind(host, port)
