"""Who may do what on the data and management ports: bearer tokens with roles.

The tokens file has one ``name:role:token`` a line (roles ``sample``, ``publish``, ``admin``; each
includes the ones before it); empty lines and lines that begin with ``#`` are skipped. Without a
file everybody may sample and publish, and nobody is admin over the network.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sampler_api.errors import Forbidden, InvalidRequest, Unauthorized

__all__ = ["Access", "Role", "parse_tokens"]

Role = Literal["sample", "publish", "admin"]
_RANK: Final[dict[str, int]] = {"sample": 0, "publish": 1, "admin": 2}


@dataclass(frozen=True, slots=True)
class Access:
    """Names with role and token; ``None`` = no tokens are asked for."""

    tokens: tuple[tuple[str, Role, bytes], ...] | None = None

    @classmethod
    def of_file(cls, path: Path | None) -> "Access":
        """Read a tokens file. Raises InvalidRequest with file and line."""
        if path is None:
            return cls()
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{path}: cannot be read: {error}", "token_file") from None
        return cls(parse_tokens(text, str(path)))

    def check(self, headers: Mapping[str, str], role: Role) -> str:
        """The name that the ``authorization`` header stands for. Raises Unauthorized, Forbidden."""
        if self.tokens is None:
            if role == "admin":
                raise Forbidden("this needs an admin token, and the server has no token file")
            return ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise Unauthorized("authorization: send 'Bearer TOKEN'", "authorization")
        wanted = given.strip().encode("utf-8", "surrogateescape")
        found: tuple[str, Role] | None = None
        # All are compared, and each in constant time: the time tells nothing about the tokens.
        for name, has, token in self.tokens:
            if hmac.compare_digest(token, wanted):
                found = name, has
        if found is None:
            raise Unauthorized(
                "authorization: the token is not in the token file of this server", "authorization"
            )
        if _RANK[found[1]] < _RANK[role]:
            raise Forbidden(f"token {found[0]!r} has role {found[1]}; this needs {role}")
        return found[0]


def parse_tokens(text: str, source: str) -> tuple[tuple[str, Role, bytes], ...]:
    """The lines of a tokens file. Raises InvalidRequest that names the line, never the token."""
    tokens: list[tuple[str, Role, bytes]] = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, _, rest = stripped.partition(":")
        role, _, token = rest.partition(":")
        if not name or role not in _RANK or not token:
            raise InvalidRequest(
                f"{source}:{number}: must be name:role:token with role sample, publish or admin",
                "token_file",
            )
        tokens.append((name, role, token.encode()))  # type: ignore[arg-type]
    if not tokens:
        raise InvalidRequest(f"{source}: holds no tokens", "token_file")
    return tuple(tokens)
