"""What the pods are told: which revisions a joiner waits for, and which base a template has."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from tests.kube_objects import fleet, pod, running
from tests.spec_cases import VOLUME, adapter

from sampler_api.fleet import (
    ADAPTERS_FILE,
    AdaptersConfig,
    AdapterState,
    DeclaredAdapter,
    ReplicaStatus,
    RequiredAdapter,
)
from sampler_api.frames import ModelCard
from sampler_operator.adapter_plan import adapters_config, recorded
from sampler_operator.names import Key, Ref
from sampler_operator.objects import Manifest
from sampler_operator.observed import ChildView, Observed, PodView, child_view
from sampler_operator.reports import Report
from sampler_operator.spec.parse import parse

X, Y = "sha256:" + "a" * 64, "sha256:" + "b" * 64
BASE, OTHER = "sha256:base", "sha256:other"
NEW_FLEET = AdaptersConfig()

Digests = dict[str, str | None]


def card(base: str) -> ModelCard:
    return ModelCard("policy", "sim", base, None, 256, 64, (0,), ("processed",), 20)


@dataclass(frozen=True)
class Replica:
    """A pod and what it last said; with ``silent`` it said nothing."""

    name: str = "p1"
    held: Digests = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    loading: tuple[str, ...] = ()
    base: str | None = BASE
    template: str = "a"
    age: float = 60
    ready: bool = True
    leaving: bool = False
    silent: bool = False

    @property
    def pod(self) -> PodView:
        return pod(
            self.name,
            template=self.template,
            age=self.age,
            is_ready=self.ready,
            is_leaving=self.leaving,
            server=running(ready=self.ready),
        )

    @property
    def report(self) -> Report:
        states = [AdapterState(name, "held", digest) for name, digest in self.held.items()]
        states += [AdapterState(name, "failed", message="broken") for name in self.failed]
        states += [AdapterState(name, "loading") for name in self.loading]
        status = ReplicaStatus(
            ready=self.ready,
            incarnation="i",
            card=card(self.base) if self.base is not None else None,
            declared=tuple(states),
        )
        return Report(self.pod.life, self.ready, status)


def config(
    declared: Digests,
    replicas: list[Replica],
    former: AdaptersConfig = NEW_FLEET,
    spec: dict[str, Any] | None = None,
) -> AdaptersConfig:
    adapters = [
        adapter(name, **({"digest": digest} if digest is not None else {}))
        for name, digest in declared.items()
    ]
    sd = parse(fleet({"lora": {"volumes": [VOLUME], "adapters": adapters}, **(spec or {})}))
    pods = tuple(replica.pod for replica in replicas)
    reports = {r.name: r.report for r in replicas if not r.silent}
    return adapters_config(sd, pods, reports, former)


def told(*required: tuple[str, str], **bases: str) -> AdaptersConfig:
    return AdaptersConfig(required=tuple(RequiredAdapter(*r) for r in required), bases=bases)


ANY: Digests = {"one": None}
Case = tuple[Digests, list[Replica], AdaptersConfig, tuple[tuple[str, str], ...] | None]

REQUIRED: dict[str, Case] = {
    "a new fleet decides by trying": (ANY, [], NEW_FLEET, None),
    "a replica that is not ready yet decides nothing": (
        ANY,
        [Replica(ready=False, held={"one": X})],
        NEW_FLEET,
        None,
    ),
    "a replica that leaves decides nothing": (
        ANY,
        [Replica(leaving=True, held={"one": X})],
        NEW_FLEET,
        None,
    ),
    "what a ready replica holds is required": (
        ANY,
        [Replica(held={"one": X})],
        NEW_FLEET,
        (("one", X),),
    ),
    "what only one of several holds is required": (
        ANY,
        [Replica(failed=("one",)), Replica("p2", held={"one": X})],
        NEW_FLEET,
        (("one", X),),
    ),
    "a broken adapter holds up nobody": (
        {"one": None, "two": None},
        [Replica(held={"one": X}, failed=("two",))],
        NEW_FLEET,
        (("one", X),),
    ),
    "an adapter that is being loaded holds up nobody": (
        ANY,
        [Replica(loading=("one",))],
        NEW_FLEET,
        (),
    ),
    "a broken adapter that nobody holds any more is not required": (
        ANY,
        [Replica(failed=("one",))],
        told(("one", X)),
        (),
    ),
    "what was declared before is not required": (
        ANY,
        [Replica(held={"gone": X})],
        told(("gone", X)),
        (),
    ),
    "without adapters nothing is required": ({}, [Replica()], NEW_FLEET, ()),
    "another digest than the declared one is not required": (
        {"one": Y},
        [Replica(held={"one": X})],
        told(("one", X)),
        (),
    ),
    "the declared digest is required once a replica holds it": (
        {"one": Y},
        [Replica(held={"one": X}), Replica("p2", held={"one": Y})],
        told(("one", X)),
        (("one", Y),),
    ),
    "of two revisions, the oldest replica's is required": (
        ANY,
        [Replica("p2", held={"one": Y}, age=30), Replica("p1", held={"one": X}, age=90)],
        NEW_FLEET,
        (("one", X),),
    ),
    "of two revisions, the one that was required stays so": (
        ANY,
        [Replica("p2", held={"one": Y}, age=30), Replica("p1", held={"one": X}, age=90)],
        told(("one", Y)),
        (("one", Y),),
    ),
    "a held adapter without a digest cannot be required": (
        ANY,
        [Replica(held={"one": None})],
        NEW_FLEET,
        (),
    ),
    "required adapters are sorted": (
        {"two": None, "one": None},
        [Replica(held={"two": X, "one": Y})],
        NEW_FLEET,
        (("one", Y), ("two", X)),
    ),
    # A new operator has asked nobody yet
    "a new operator tells what the former one told": (
        ANY,
        [Replica(silent=True)],
        told(("one", X)),
        (("one", X),),
    ),
    "a new operator keeps it that nothing is required": ({}, [Replica(silent=True)], told(), ()),
    "a new operator leaves open what was open": (ANY, [Replica(silent=True)], NEW_FLEET, None),
    "a new operator does not tell what is no more declared": (
        {"two": None},
        [Replica(silent=True)],
        told(("one", X)),
        (),
    ),
    "until all have answered, what was required stays so": (
        {"one": None, "two": None},
        [Replica(held={"two": Y}), Replica("p2", silent=True)],
        told(("one", X)),
        (("one", X), ("two", Y)),
    ),
    "when the last ready replica is gone, it is open again": (
        ANY,
        [Replica(ready=False, silent=True)],
        told(("one", X)),
        None,
    ),
}


@pytest.mark.parametrize(
    ("declared", "replicas", "former", "required"), REQUIRED.values(), ids=REQUIRED.keys()
)
def test_a_joiner_waits_for(
    declared: Digests,
    replicas: list[Replica],
    former: AdaptersConfig,
    required: tuple[tuple[str, str], ...] | None,
) -> None:
    found = config(declared, replicas, former).required
    assert (found if found is None else tuple((r.name, r.digest) for r in found)) == required


def test_declared_adapters_are_those_of_the_spec_in_their_order() -> None:
    assert config({"two": None, "one": X}, []).declared == (
        DeclaredAdapter("two", "/adapters/two"),
        DeclaredAdapter("one", "/adapters/one", X),
    )


BASES: dict[str, tuple[list[Replica], dict[str, str], dict[str, Any], dict[str, str]]] = {
    "a new fleet has no base": ([], {}, {}, {}),
    "the first ready replica sets it": ([Replica()], {}, {}, {"a": BASE}),
    "a replica that is not ready sets nothing": ([Replica(ready=False)], {}, {}, {}),
    "a replica that leaves sets nothing": ([Replica(leaving=True)], {}, {}, {}),
    "a replica that did not answer sets nothing": ([Replica(silent=True)], {}, {}, {}),
    "a replica that knows no base sets nothing": ([Replica(base=None)], {}, {}, {}),
    "a pod without a template sets nothing": ([Replica(template="")], {}, {}, {}),
    "of two replicas, the older one sets it": (
        [Replica("p2", base=OTHER, age=1), Replica("p1", age=2)],
        {},
        {},
        {"a": BASE},
    ),
    "what was set stays": ([Replica(base=OTHER)], {"a": BASE}, {}, {"a": BASE}),
    "each template has its own": (
        [Replica(), Replica("p2", template="b", base=OTHER)],
        {},
        {},
        {"a": BASE, "b": OTHER},
    ),
    "a digest of the spec says nothing of the pods of before": (
        [Replica(template="old")],
        {},
        {"model": {"digest": X}},
        {"old": BASE},
    ),
    "a template without pods is forgotten when another one serves": (
        [Replica(template="b", base=OTHER)],
        {"a": BASE},
        {},
        {"b": OTHER},
    ),
    "a template with pods that leave is remembered": (
        [Replica("p1", leaving=True), Replica("p2", template="b", base=OTHER)],
        {"a": BASE},
        {},
        {"a": BASE, "b": OTHER},
    ),
    "a template without pods is remembered while the next one starts": (
        [Replica(template="b", ready=False)],
        {"a": BASE},
        {},
        {"a": BASE},
    ),
    "the only replica may be gone for a moment": ([], {"a": BASE}, {}, {"a": BASE}),
    "a fleet that rests forgets": ([], {"a": BASE}, {"replicas": 0}, {}),
    "a fleet that is about to rest remembers": (
        [Replica(leaving=True)],
        {"a": BASE},
        {"replicas": 0},
        {"a": BASE},
    ),
    "a new operator remembers": ([Replica(silent=True)], {"a": BASE}, {}, {"a": BASE}),
}


@pytest.mark.parametrize(("replicas", "former", "spec", "bases"), BASES.values(), ids=BASES.keys())
def test_the_base_of_a_template(
    replicas: list[Replica], former: dict[str, str], spec: dict[str, Any], bases: dict[str, str]
) -> None:
    assert config({}, replicas, AdaptersConfig(bases=former), spec).bases == bases


# What was told last


def config_map(data: Any) -> dict[Ref, ChildView]:
    meta = {"name": "fleet-adapters", "namespace": "rl", "uid": "c"}
    child = child_view({"kind": "ConfigMap", "metadata": meta, "data": data})
    return {child.ref: child}


def memory(data: Any = None, status: Manifest | None = None) -> AdaptersConfig:
    children = config_map(data) if data is not None else {}
    return recorded(Key("rl", "fleet"), Observed(fleet(status=status), children))


WRITTEN = AdaptersConfig(
    (DeclaredAdapter("one", "/adapters/one"),), (RequiredAdapter("one", X),), {"a": BASE}
)


def test_the_config_map_is_the_memory() -> None:
    assert memory({ADAPTERS_FILE: msgspec.json.encode(WRITTEN).decode()}) == WRITTEN


def test_the_status_remembers_bases_too_and_counts() -> None:
    status = {"bases": [{"template": "a", "digest": OTHER}, {"template": "b", "digest": X}]}
    told = memory({ADAPTERS_FILE: msgspec.json.encode(WRITTEN).decode()}, status)
    assert told.bases == {"a": OTHER, "b": X}
    assert told.required == WRITTEN.required
    assert memory(None, status) == AdaptersConfig(bases={"a": OTHER, "b": X})


SPOILT = {
    "no data": None,
    "another file": {"x": "y"},
    "no JSON": {ADAPTERS_FILE: "{"},
    "JSON of something else": {ADAPTERS_FILE: '{"required": 3}'},
}


@pytest.mark.parametrize("data", SPOILT.values(), ids=SPOILT.keys())
def test_a_config_map_in_other_hands_is_no_memory(data: Any) -> None:
    observed = Observed(fleet(), config_map(data))
    assert recorded(Key("rl", "fleet"), observed) == AdaptersConfig()
