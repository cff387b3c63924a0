"""Keys and certificates of a cluster that lives as long as a test run, made by ``openssl``."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

__all__ = ["Authority", "Certificate", "kubeconfig"]

# The machine's own configuration would add extensions, such as CA:TRUE, to every certificate.
_CONFIG: Final = "[req]\ndistinguished_name = none\n[none]\n"
_NEW: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "7")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates of the server and of users; openssl must be 3.0 or newer."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._config = folder / "openssl.conf"
        self._config.write_text(_CONFIG)
        usage = "critical,keyCertSign,cRLSign,digitalSignature"
        self.own = self._request(
            "ca", "/CN=tests", ("basicConstraints=critical,CA:TRUE", f"keyUsage={usage}")
        )

    def server(self, name: str, addresses: Sequence[str]) -> Certificate:
        """A certificate for servers at ``addresses``: ``IP:…`` or ``DNS:…``."""
        return self._signed(name, f"/CN={name}", "serverAuth", addresses)

    def user(self, name: str, user: str, groups: Sequence[str] = ()) -> Certificate:
        """A certificate that the API server takes for ``user``; ``name`` is its files' name."""
        organisations = "".join(f"/O={_escaped(group)}" for group in groups)
        return self._signed(name, f"{organisations}/CN={_escaped(user)}", "clientAuth", ())

    def signing_key(self, name: str) -> Path:
        """A key for tokens of service accounts."""
        key = self._folder / f"{name}.key"
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
        return key

    def _signed(
        self,
        name: str,
        subject: str,
        purpose: Literal["serverAuth", "clientAuth"],
        addresses: Sequence[str],
    ) -> Certificate:
        extensions = [f"extendedKeyUsage={purpose}", "keyUsage=critical,digitalSignature"]
        if addresses:
            extensions.append("subjectAltName=" + ",".join(addresses))
        signer = ("-CA", str(self.own.certificate), "-CAkey", str(self.own.key))
        return self._request(name, subject, extensions, signer)

    def _request(
        self, name: str, subject: str, extensions: Sequence[str], signer: Sequence[str] = ()
    ) -> Certificate:
        made = Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        files = ("-keyout", str(made.key), "-out", str(made.certificate))
        added = [word for extension in extensions for word in ("-addext", extension)]
        words = ("-config", str(self._config), "-subj", subject, *_NEW, *files, *signer, *added)
        _openssl("req", "-x509", *words)
        return made


def kubeconfig(url: str, authority: Path, user: Certificate) -> str:
    """What every Kubernetes client reads: JSON, which is YAML too."""
    cluster = {"server": url, "certificate-authority": str(authority)}
    client = {"client-certificate": str(user.certificate), "client-key": str(user.key)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "user", "user": client}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "user"}}],
            "current-context": "tests",
        }
    )


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("/", "\\/").replace("+", "\\+")


def _openssl(*words: str) -> None:
    done = subprocess.run(("openssl", *words), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(words)} (3.0 or newer is needed):\n{done.stderr}")
