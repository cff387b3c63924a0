"""What users import stays what it is: names, and the signatures of the Sampler interface."""

import importlib
import inspect
import subprocess
import sys

import pytest

from sampler_api import Sampler


def imported_here(name: str) -> bool:
    """A name that a package's __init__ imports for its own use."""
    return name in {"Any", "TYPE_CHECKING", "import_module"}


@pytest.mark.parametrize("package", ["sampler_api", "sampler_client"])
def test_everything_in_all_exists_and_nothing_public_is_left_out(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    defined = {
        name
        for name in dir(module)
        if not name.startswith("_")
        and not inspect.ismodule(getattr(module, name))
        and not imported_here(name)
    }
    assert defined == set(module.__all__)


def test_documents_of_a_fleet_need_no_numpy() -> None:
    code = "import sys, sampler_api.fleet; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_sampler_interface_has_exactly_three_methods() -> None:
    methods = {name for name in vars(Sampler) if not name.startswith("_")}
    assert methods == {"sample", "add_adapter_to_model", "set_template"}
    assert Sampler.__abstractmethods__ == methods


def test_the_signature_of_sample_begins_as_recipes_call_it() -> None:
    parameters = list(inspect.signature(Sampler.sample).parameters.values())
    assert [p.name for p in parameters[:4]] == ["self", "inputs", "sampling_params", "adapter_name"]
    assert parameters[2].default is None
    assert parameters[3].default == ""
    keyword_only = {p.name: p.default for p in parameters[4:]}
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[4:])
    assert keyword_only == {
        "num_samples": 1,
        "adapter_path": None,
        "use_base_model": False,
        "group_key": None,
        "session_key": None,
        "on_error": "raise",
        "progress": False,
    }


def test_the_signatures_of_the_other_two_methods() -> None:
    adapter = inspect.signature(Sampler.add_adapter_to_model)
    template = inspect.signature(Sampler.set_template)
    assert list(adapter.parameters) == ["self", "adapter_name", "config_or_dir", "kwargs"]
    assert list(template.parameters) == ["self", "template_cls", "kwargs"]
