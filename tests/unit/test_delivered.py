"""What comes to be continued and had ended already."""

from typing import Any

import numpy as np
import pytest

from sampler_api.frames import LENGTH, RUNNING, STOP
from sampler_api.params import SamplingParams
from sampler_core.delivered import end_of_delivered

EOS = 0

CASES: list[tuple[str, dict[str, Any], str, int, str | int | None]] = [
    ("nothing that ends", {}, "abc", RUNNING, None),
    ("an end token", {}, "ab\0", STOP, None),
    ("an end token that is ignored", {"ignore_eos": True}, "ab\0", RUNNING, None),
    ("an end token that something follows", {}, "a\0b", RUNNING, None),
    ("a stop id", {"stop_token_ids": [ord("c")]}, "abc", STOP, ord("c")),
    ("a stop id before min_tokens", {"stop_token_ids": [ord("c")], "min_tokens": 3}, "abc", 0, 0),
    ("a stop id after min_tokens", {"stop_token_ids": [99], "min_tokens": 2}, "abc", STOP, 99),
    ("a stop string", {"stop": ["bc"]}, "abc", STOP, "bc"),
    ("a stop string that something follows", {"stop": ["ab"]}, "abc", RUNNING, None),
    ("a stop string before min_tokens", {"stop": ["bc"], "min_tokens": 3}, "abc", RUNNING, None),
    ("a stop string at the limit", {"stop": ["ef"]}, "abcdef", STOP, "ef"),
    ("the limit", {}, "abcdef", LENGTH, None),
    ("more than the limit", {}, "abcdefg", LENGTH, None),
]


@pytest.mark.rule("S7.4")
@pytest.mark.parametrize(
    ("given", "text", "flag", "matched"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_delivered_tokens_are_searched_for_their_end(
    given: dict[str, Any], text: str, flag: int, matched: str | int | None
) -> None:
    params = SamplingParams.from_dict({"max_tokens": 6, **given})
    output = np.array([ord(letter) for letter in text], np.int32)
    found = end_of_delivered(
        params, params.stop_texts, output, 6, [EOS], lambda ids: "".join(map(chr, ids))
    )
    assert found == (flag, matched or None)
