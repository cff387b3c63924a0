"""TLS on the data port: whom clients trust, and certificates that are replaced while it serves."""

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.apiserver_certificates import Authority, Certificate
from tests.servers import Server

from sampler_api.errors import InvalidRequest, NoReplica
from sampler_client import RemoteSampler
from sampler_server import tls

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")

PARAMS = {"max_tokens": 4, "seed": 1}
WHERE = ("IP:127.0.0.1",)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


def put(files: Certificate, folder: Path) -> Certificate:
    """Replace the mounted pair, each file whole."""
    for source, name in ((files.certificate, "tls.crt"), (files.key, "tls.key")):
        shutil.copy(source, folder / "draft")
        (folder / "draft").rename(folder / name)
    return Certificate(folder / "tls.crt", folder / "tls.key")


@pytest.fixture
def mounted(authority: Authority, tmp_path: Path) -> Certificate:
    return put(authority.server("first", WHERE), tmp_path)


@pytest.fixture
def server(mounted: Certificate) -> Iterator[Server]:
    files = ("--tls-cert", str(mounted.certificate), "--tls-key", str(mounted.key))
    with Server(*files) as server:
        yield server


def url_of(server: Server) -> str:
    return f"https://127.0.0.1:{server.data.number}"


def test_a_client_that_trusts_the_authority_samples_and_others_do_not(
    server: Server, authority: Authority, mounted: Certificate
) -> None:
    with RemoteSampler(url_of(server), ca_file=str(authority.own.certificate)) as sampler:
        (response,) = sampler.sample({"input_ids": [7]}, PARAMS)
        assert len(response.sequences[0].tokens) == 4
        # Over plain HTTP beside the session.
        assert sampler.sample({"messages": [{"role": "user", "content": "hi"}]}, PARAMS).sequences
    with (
        RemoteSampler(url_of(server), first_reply_timeout=0.2, tick=0.05) as sampler,
        pytest.raises(NoReplica, match="certificate verify failed"),
    ):
        sampler.sample({"input_ids": [7]}, PARAMS)
    # Probes have no certificates.
    assert server.manage.get("/readyz")[0] == 200


def test_a_replaced_certificate_is_served_without_a_restart(
    server: Server, authority: Authority, mounted: Certificate
) -> None:
    address = ("127.0.0.1", server.data.number)
    second = authority.server("second", WHERE)
    with RemoteSampler(url_of(server), ca_file=str(authority.own.certificate)) as sampler:
        sampler.sample({"input_ids": [7]}, PARAMS)
        put(second, mounted.certificate.parent)
        while ssl.get_server_certificate(address) != second.certificate.read_text():
            pass
        sampler.sample({"input_ids": [7]}, PARAMS)
    with RemoteSampler(url_of(server), ca_file=str(authority.own.certificate)) as sampler:
        sampler.sample({"input_ids": [7]}, PARAMS)


def test_a_pair_that_does_not_fit_is_not_taken_in(
    authority: Authority, mounted: Certificate
) -> None:
    certificate = tls.Certificate(mounted.certificate, mounted.key)
    other = authority.server("other", WHERE)
    good = mounted.key.read_bytes()
    shutil.copy(other.key, mounted.key)
    certificate.look()
    # The context in use would refuse to shake hands with half a pair.
    assert handshakes(certificate.context, authority)
    mounted.key.write_bytes(good)
    certificate.look()
    assert handshakes(certificate.context, authority)


def handshakes(context: ssl.SSLContext, authority: Authority) -> bool:
    """Whether a client that trusts the authority comes to terms with ``context``, in memory."""
    trusting = ssl.create_default_context(cafile=authority.own.certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client.version() is not None


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda pair: pair.key.unlink(), id="a key that is missing"),
        pytest.param(lambda pair: pair.certificate.write_text("-"), id="no certificate"),
        pytest.param(
            lambda pair: subprocess.run(
                [
                    "openssl",
                    "ec",
                    "-in",
                    pair.key,
                    "-aes128",
                    "-passout",
                    "pass:x",
                    "-out",
                    pair.key,
                ],
                check=True,
                capture_output=True,
            ),
            id="a key with a password",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(mounted: Certificate, spoil: object) -> None:
    assert callable(spoil)
    spoil(mounted)
    with pytest.raises(InvalidRequest, match=str(mounted.key)):
        tls.Certificate(mounted.certificate, mounted.key)


def test_a_wrong_ca_file_is_named_before_anything_connects(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="ca_file"):
        RemoteSampler("https://127.0.0.1:1", ca_file=os.fspath(tmp_path / "absent"))
