"""Templates encode and decode with a real tokenizer, load late, and travel."""

import copy
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny_models import tiny_tokenizer

from sampler_api.errors import InvalidRequest, Unsupported
from sampler_core.features import IGNORED
from sampler_core.template import Template, register_template, resolve_template

# The first test of a process imports transformers, which takes seconds.
pytestmark = pytest.mark.timeout(60)

CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "good day"},
    ],
    "user_data": [("answer", "42")],
    "key": {"deep": [1]},
}
PROMPT = {"messages": CHAT["messages"][:2]}


@cache
def template() -> Template:
    """One for all tests that change nothing."""
    return Template(str(tiny_tokenizer()))


def made_with(chat_template: str | None, **options: Any) -> Template:
    """A template of another chat template."""
    tokenizer = copy.deepcopy(template().tokenizer)
    tokenizer.chat_template = chat_template
    return Template(tokenizer=tokenizer, **options)


def trained(made: dict[str, Any], by: Template) -> str:
    """The text of all trained labels."""
    return by.decode([label for label in made["labels"] if label != IGNORED])


def test_a_prompt_ends_where_the_assistant_begins_and_trains_nothing() -> None:
    made = template().encode(PROMPT, add_generation_prompt=True)
    assert template().decode(made["input_ids"]) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    length = len(made["input_ids"])
    assert made["labels"] == [IGNORED] * length
    assert made["attention_mask"] == [1] * length
    assert made["position_ids"] == list(range(length))
    assert made["length"] == length


def test_a_whole_conversation_trains_the_assistant_with_its_end() -> None:
    made = template().encode(CHAT)
    assert trained(made, template()) == "good day<|im_end|>"
    first = next(i for i, label in enumerate(made["labels"]) if label != IGNORED)
    assert made["labels"][first] == made["input_ids"][first + 1]


def test_every_round_of_the_assistant_is_trained() -> None:
    messages = [
        *CHAT["messages"],
        {"role": "user", "content": "good day"},
        {"role": "assistant", "content": "世界"},
    ]
    made = template().encode({"messages": messages})
    assert trained(made, template()) == "good day<|im_end|>世界<|im_end|>"


FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_earlier_rounds_are_trained_as_they_are_rendered_without_their_thinking() -> None:
    by = made_with(FORGETFUL)
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>x</think>one"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "<think>y</think>two"},
    ]
    made = by.encode({"messages": messages})
    assert trained(made, by) == "one<|im_end|><think>y</think>two<|im_end|>"


def test_marks_of_the_chat_template_say_what_is_trained() -> None:
    by = made_with(
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}|{% endif %}"
        "{% endfor %}"
    )
    assert trained(by.encode(CHAT), by) == "good day"


def test_thinking_stays_in_the_text_where_the_chat_template_knows_none() -> None:
    messages = [PROMPT["messages"][1], {"role": "assistant", "content": "<think>x</think>y"}]
    made = template().encode({"messages": messages})
    assert "<think>x</think>y" in template().decode(made["input_ids"])


def test_unknown_keys_come_along_and_the_callers_dict_stays() -> None:
    before = copy.deepcopy(CHAT)
    made = template().encode(CHAT, add_generation_prompt=True)
    assert made["user_data"] == [("answer", "42")]
    assert made["key"] == {"deep": [1]}
    assert before == CHAT
    assert made is not CHAT


def test_tools_thinking_and_default_system_reach_the_chat_template() -> None:
    by = made_with(
        "{{ enable_thinking }}|{{ tools[0].function.parameters.type }}|{{ messages[0].content }}|"
        "{{ messages[-1].tool_calls[0].function.arguments.x }}",
        default_system="sys",
        enable_thinking=False,
    )
    call = {"function": {"name": "f", "arguments": '{"x": 7}'}}
    trajectory = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ],
        "tools": [{"function": {"name": "f", "parameters": '{"type": "object"}'}}],
    }
    made = by.encode(trajectory, add_generation_prompt=True)
    assert by.decode(made["input_ids"]) == "False|object|sys|7"


def test_without_a_chat_template_contents_are_text() -> None:
    by = Template(tokenizer=template().tokenizer, use_chat_template=False, default_system="no")
    made = by.encode({"messages": [{"role": "user", "content": "plain"}]})
    assert by.decode(made["input_ids"]) == "plain"
    assert made["labels"] == made["input_ids"][1:] + made["input_ids"][:1]
    assert trained(by.encode({"prompt": "x"}, add_generation_prompt=True), by) == ""


def test_a_prompt_without_messages_is_plain_text() -> None:
    made = template().encode({"prompt": "once upon"}, add_generation_prompt=True)
    assert template().decode(made["input_ids"]) == "once upon"
    assert made["prompt"] == "once upon"


@pytest.mark.parametrize(
    ("trajectory", "field"),
    [
        pytest.param({}, "messages", id="nothing to encode"),
        pytest.param({"messages": []}, "messages", id="no messages"),
        pytest.param({"messages": [{"role": "user"}], "images": ["a"]}, "images", id="images"),
    ],
)
def test_a_trajectory_is_refused_that_has(trajectory: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        template().encode(trajectory)
    assert caught.value.field == field


def test_what_the_chat_template_refuses_names_messages_and_says_why() -> None:
    by = made_with("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        by.encode(PROMPT)
    assert caught.value.field == "messages"


def test_a_tokenizer_without_chat_template_says_what_to_do() -> None:
    with pytest.raises(InvalidRequest, match="use_chat_template=False"):
        made_with(None).encode(PROMPT)


@pytest.mark.parametrize("strategy", ["raise", "delete"])
def test_an_input_over_max_length_is_refused_by(strategy: str) -> None:
    by = Template(tokenizer=template().tokenizer, max_length=3, truncation_strategy=strategy)
    with pytest.raises(InvalidRequest, match="max_length is 3") as caught:
        by.encode(CHAT)
    assert caught.value.field == "max_length"


def test_tokens_are_cut_with_their_labels() -> None:
    whole = template().encode(CHAT)
    for strategy, kept in (("left", slice(-5, None)), ("right", slice(5))):
        by = Template(tokenizer=template().tokenizer, max_length=5, truncation_strategy=strategy)
        made = by.encode(CHAT)
        assert made["input_ids"] == whole["input_ids"][kept]
        assert made["length"] == len(made["labels"]) == 5
        for label, following in zip(made["labels"][:-1], made["input_ids"][1:], strict=True):
            assert label in (IGNORED, following)


def test_delete_leaves_long_inputs_out_of_a_batch() -> None:
    by = Template(tokenizer=template().tokenizer, max_length=10, truncation_strategy="delete")
    batch = by.batch_encode([{"prompt": "a"}, CHAT, {"prompt": "b"}])
    assert isinstance(batch, list)
    assert [made["prompt"] for made in batch] == ["a", "b"]


def test_a_batch_of_columns_comes_back_as_columns() -> None:
    made = template().batch_encode({"prompt": ["a", "b"], "id": [1, 2]})
    assert isinstance(made, dict)
    assert made["id"] == [1, 2]
    assert [template().decode(ids) for ids in made["input_ids"]] == ["a", "b"]


def test_nothing_is_truncated_after_sampling() -> None:
    by = Template(tokenizer=template().tokenizer, max_length=4, truncation_strategy="right")
    made = by.concat_input_feature({"input_ids": [5, 6, 7]}, [8] * 20)
    assert made["input_ids"] == [5, 6, 7] + [8] * 20
    assert sum(label != IGNORED for label in made["labels"]) == 20


@pytest.mark.parametrize("kind", [list, np.array, tuple], ids=["a list", "an array", "a tuple"])
def test_ids_are_decoded_from(kind: Any) -> None:
    ids = template().tokenizer("good day")["input_ids"] + [2]
    assert template().decode(kind(ids)) == "good day<|im_end|>"
    assert template().decode(kind(ids), skip_special_tokens=True) == "good day"
    assert template().batch_decode([kind(ids)] * 2) == ["good day<|im_end|>"] * 2


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"truncation_strategy": "split"}, "truncation_strategy"),
        ({"truncation_strategy": "top"}, "truncation_strategy"),
        ({"max_length": 0}, "max_length"),
    ],
    ids=["split", "an unknown strategy", "no length"],
)
def test_an_option_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Template("x", **options)
    assert caught.value.field == field


# -- loading -------------------------------------------------------------------------------------


def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tiny_tokenizer().iterdir()}


def test_a_template_of_files_is_the_template_of_their_folder() -> None:
    made = Template.from_files(files(), max_length=1000)
    assert made.encode(CHAT) == template().encode(CHAT)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({}, id="none"),
        pytest.param({"tokenizer.json": b"\xff"}, id="no JSON"),
        pytest.param({"tokenizer.json": b'{"added_tokens": [], "model": 3}'}, id="no model"),
        pytest.param({"../tokenizer.json": b"{}"}, id="a path"),
        pytest.param({"a/b": b""}, id="a folder"),
    ],
)
def test_files_are_refused_that_are(broken: dict[str, bytes]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Template.from_files(broken).encode(PROMPT)
    assert caught.value.field == "tokenizer"


@pytest.mark.parametrize("model_id", ["/no/such/folder", "./no-such-folder", "ms://a/b"])
def test_a_model_id_that_cannot_be_loaded_is_named(model_id: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Template(model_id).encode(PROMPT)
    assert caught.value.field == "model_id"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Template(str(tiny_tokenizer()), default_system="s"), id="a path"),
        pytest.param(lambda: Template.from_files(files(), default_system="s"), id="files"),
        pytest.param(
            lambda: Template(tokenizer=template().tokenizer, default_system="s"), id="a tokenizer"
        ),
    ],
)
def test_a_template_pickles_made_of(make: Any) -> None:
    original = make()
    expected = original.encode(PROMPT)
    assert pickle.loads(pickle.dumps(original)).encode(PROMPT) == expected


def test_a_pickled_template_of_a_path_is_small() -> None:
    assert len(pickle.dumps(template())) < 1000


def test_threads_may_share_a_template() -> None:
    expected = template().encode(CHAT)
    results: list[bool] = []

    def work() -> None:
        for _ in range(20):
            made = template().encode(CHAT)
            results.append(made == expected and template().decode([5, 6]) != "")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


def test_transformers_is_imported_at_the_first_use_only() -> None:
    program = (
        "import sys; from sampler_core.template import Template, resolve_template; "
        "resolve_template('Template', model_id='some/model'); Template('a/b'); "
        "Template.from_files({'tokenizer.json': b''}); "
        "sys.exit('transformers' in sys.modules or 'jinja2' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={"PYTHONPATH": str(root / "client")}
    )


# -- set_template --------------------------------------------------------------------------------


@register_template
class ShoutingTemplate(Template):
    """Decodes loudly."""

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        return super().decode(token_ids, skip_special_tokens, **kwargs).upper()


class Duck:
    """Neither registered nor derived."""

    def encode(self, trajectory: Any, add_generation_prompt: bool = False) -> Any:
        return trajectory

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return ""


def test_a_class_gets_the_model_id_and_the_options() -> None:
    made = resolve_template(Template, model_id="a/b", max_length=7)
    assert (made.model_id, made.max_length) == ("a/b", 7)


def test_a_registered_name_is_its_class() -> None:
    assert type(resolve_template("Template", model_id="a/b")) is Template
    assert type(resolve_template("ShoutingTemplate", model_id="a/b")) is ShoutingTemplate


def test_another_text_is_a_model_id_or_path() -> None:
    assert resolve_template("some-org/some-model", max_length=3).model_id == "some-org/some-model"
    assert resolve_template(str(tiny_tokenizer())).decode([2]) == "<|im_end|>"


def test_a_model_id_without_owner_must_be_in_the_cache_of_the_hub(tmp_path: Path) -> None:
    options: dict[str, Any] = {"cache_dir": str(tmp_path)}
    with pytest.raises(InvalidRequest, match="no template is called 'gpt2'"):
        resolve_template("gpt2", **options)
    (tmp_path / "models--gpt2").mkdir()
    assert resolve_template("gpt2", **options).model_id == "gpt2"


def test_a_directory_without_a_slash_is_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy").mkdir()
    assert resolve_template("policy").model_id == "policy"


def test_a_scheme_that_is_not_served_is_unsupported() -> None:
    assert resolve_template("hf://a/b").model_id == "hf://a/b"
    with pytest.raises(Unsupported, match="template_cls: ms://"):
        resolve_template("ms://a/b")


def test_an_unknown_name_is_told_which_there_are() -> None:
    with pytest.raises(InvalidRequest, match=r"'Nope' \(there are .*ShoutingTemplate, Template"):
        resolve_template("Nope")


def test_an_instance_is_taken_as_it_is() -> None:
    duck = Duck()
    assert resolve_template(duck) is duck
    assert resolve_template(template()) is template()


def test_a_name_without_model_id_takes_the_files_of_the_served_model() -> None:
    made = resolve_template("Template", files=files, enable_thinking=False)
    assert made.decode([2]) == "<|im_end|>"
    assert made.enable_thinking is False


@pytest.mark.parametrize(
    ("value", "options", "field"),
    [
        pytest.param("Templat", {}, "template_cls", id="a misspelled name"),
        pytest.param("Qwen9Template", {}, "template_cls", id="an unknown name"),
        pytest.param("Nope", {}, "template_cls", id="an unknown word"),
        pytest.param("", {}, "template_cls", id="an empty text"),
        pytest.param("a/b/c", {}, "template_cls", id="a path that is not there"),
        pytest.param("/nowhere/at/all", {}, "template_cls", id="no such directory"),
        pytest.param("hf://", {}, "template_cls", id="a scheme alone"),
        pytest.param("nosuch", {"model_id": "a/b"}, "template_cls", id="two model ids"),
        pytest.param("Template", {}, "model_id", id="a name without model"),
        pytest.param(3, {}, "template_cls", id="a number"),
        pytest.param(Duck(), {"max_length": 3}, "max_length", id="an instance with options"),
        pytest.param(Duck(), {"model_id": "a"}, "model_id", id="an instance with a model id"),
    ],
)
def test_set_template_refuses(value: Any, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        resolve_template(value, **options)
    assert caught.value.field == field
    assert not isinstance(caught.value, Unsupported)
