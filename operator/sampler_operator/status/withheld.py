"""What a status says of adapters while replicas have not been asked yet."""

from collections.abc import Mapping
from typing import Any, Final

from ..objects import Manifest
from .conditions import ConditionType, read

__all__ = ["with_former_adapters"]

_OF_ADAPTERS: Final = ("adapters", "adaptersSummary")


def with_former_adapters(former: Mapping[str, Any], made: Manifest) -> Manifest:
    """``made``, but of adapters what the status before it says: an operator that has just started
    knows less than that. The condition keeps its ``observedGeneration``."""
    kept = read(former).get(str(ConditionType.ADAPTERS_READY))
    conditions = (
        kept if each["type"] == ConditionType.ADAPTERS_READY else each
        for each in made["conditions"]
    )
    rest = {name: value for name, value in made.items() if name not in _OF_ADAPTERS}
    told = {name: former[name] for name in _OF_ADAPTERS if name in former}
    return {**rest, **told, "conditions": [dict(each) for each in conditions if each is not None]}
