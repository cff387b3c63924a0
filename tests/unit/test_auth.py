"""Bearer tokens and their roles."""

from pathlib import Path

import pytest

from sampler_api.errors import Forbidden, InvalidRequest, SamplerError, Unauthorized
from sampler_server.auth import Access, Role, parse_tokens

TEXT = """
# jobs
trainer:publish:p-secret
viewer:sample:s:with:colons

ops:admin:a-secret
"""
ACCESS = Access(parse_tokens(TEXT, "tokens"))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("token", "role", "name"),
    [
        ("p-secret", "sample", "trainer"),
        ("p-secret", "publish", "trainer"),
        ("s:with:colons", "sample", "viewer"),
        ("a-secret", "admin", "ops"),
        ("a-secret", "publish", "ops"),
    ],
)
def test_a_role_includes_those_before_it(token: str, role: Role, name: str) -> None:
    assert ACCESS.check(bearer(token), role) == name


@pytest.mark.parametrize(
    ("headers", "role", "error"),
    [
        pytest.param({}, "sample", Unauthorized, id="without a header"),
        pytest.param({"authorization": "Basic p-secret"}, "sample", Unauthorized, id="not bearer"),
        pytest.param(bearer("p-secre"), "sample", Unauthorized, id="with a wrong token"),
        pytest.param(bearer("é"), "sample", Unauthorized, id="with letters beyond ASCII"),
        pytest.param(bearer("s:with:colons"), "publish", Forbidden, id="with too low a role"),
        pytest.param(bearer("p-secret"), "admin", Forbidden, id="publish is not admin"),
    ],
)
def test_access_is_refused(headers: dict[str, str], role: Role, error: type[SamplerError]) -> None:
    with pytest.raises(error) as refused:
        ACCESS.check(headers, role)
    assert "secret" not in str(refused.value)


def test_without_a_file_all_but_admin_is_open() -> None:
    assert Access.of_file(None).check({}, "publish") == ""
    with pytest.raises(Forbidden):
        Access.of_file(None).check({}, "admin")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("a:sample:t\nb:root:secret", 2, id="an unknown role"),
        pytest.param("a:sample", 1, id="a line without a token"),
        pytest.param(":sample:t", 1, id="a line without a name"),
    ],
)
def test_a_bad_line_is_named_without_its_token(text: str, line: int) -> None:
    with pytest.raises(InvalidRequest, match=f"tokens:{line}: ") as error:
        parse_tokens(text, "tokens")
    assert "secret" not in str(error.value)


def test_an_empty_or_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Access.of_file(tmp_path / "none")
    with pytest.raises(InvalidRequest, match="no tokens"):
        parse_tokens("# nothing\n", "tokens")
