"""Specs that are refused: at which field, and in which words."""

from dataclasses import dataclass
from typing import Any, Final

from tests.spec_cases import (
    GONE,
    MINIMAL,
    VOLUME,
    Spec,
    adapter,
    changed,
    manifest,
)

from sampler_operator import names

__all__ = ["INVALID", "InvalidSpecCase"]


@dataclass(frozen=True, slots=True)
class InvalidSpecCase:
    """What is wrong with it, as a sentence; the field that both sides name; the words of a rule,
    which both say. The rest of the words is each side's own."""

    sentence: str
    change: Spec
    field: str
    message: str = ""
    name: str = "fleet"

    @property
    def manifest(self) -> Spec:
        """The whole object."""
        return manifest(changed(MINIMAL, self.change), self.name)


def _lora(**more: Any) -> Spec:
    return {"lora": {"volumes": [VOLUME], **more}}


def _volume(**change: Any) -> Spec:
    return {"lora": {"volumes": [changed(VOLUME, change)]}}


def own_directories() -> list[str]:
    """All that the operator has a name for."""
    return sorted(path for name, path in vars(names).items() if name.endswith("_DIR"))


_Case = InvalidSpecCase
_VLLM: Final[Spec] = {"engine": {"torch": GONE, "vllm": {}}}
_ONE_ENGINE = "exactly one of vllm, torch and sim must be given"
_ONE_SOURCE = "exactly one of persistentVolumeClaim, nfs, csi, hostPath and emptyDir"
_CLEAN = "must be a path without //, /./ and /../"
_NO_DEVICES = "devices are counted in gpu.count"
_NOT_BOTH_ZERO = "maxSurge and maxUnavailable must not both be 0"
_UNIQUE = ""  # the API server has words of its own for the keys of lists

INVALID: Final = (
    # The model
    _Case("a model is needed", {"model": GONE}, "spec.model"),
    _Case("a model needs a uri", {"model": {"uri": GONE}}, "spec.model.uri"),
    _Case("a null is no uri", {"model": {"uri": None}}, "spec.model.uri"),
    _Case("a uri has a known scheme", {"model": {"uri": "s3://a/b"}}, "spec.model.uri"),
    _Case("a bare name is no uri", {"model": {"uri": "owner/model"}}, "spec.model.uri"),
    _Case("a uri has no spaces", {"model": {"uri": "file:///a b"}}, "spec.model.uri"),
    _Case(
        "a hub model has an owner",
        {"model": {"uri": "hf://model"}},
        "spec.model.uri",
        "an hf:// model is hf://owner/name",
    ),
    _Case(
        "a hub model is no path in a repository",
        {"model": {"uri": "hf://owner/model/folder"}},
        "spec.model.uri",
        "an hf:// model is hf://owner/name",
    ),
    _Case(
        "a hub model has a name",
        {"model": {"uri": "hf://owner/"}},
        "spec.model.uri",
        "an hf:// model is hf://owner/name",
    ),
    _Case(
        "a hub model's owner is not empty",
        {"model": {"uri": "hf:///model"}},
        "spec.model.uri",
        "an hf:// model is hf://owner/name",
    ),
    _Case(
        "a model of a claim has no revision",
        {"model": {"uri": "pvc://claim/a", "revision": "main"}},
        "spec.model.revision",
        "only an hf:// model has revisions",
    ),
    _Case(
        "a file model is no relative path",
        {"model": {"uri": "file://models/a"}},
        "spec.model.uri",
        "a file:// model is an absolute path",
    ),
    _Case(
        "a model of a claim names the claim",
        {"model": {"uri": "pvc:///models/a"}},
        "spec.model.uri",
        "the claim's name is missing",
    ),
    _Case(
        "a model of a claim lies in the claim",
        {"model": {"uri": "pvc://models/../a"}},
        "spec.model.uri",
        "write where it leads",
    ),
    _Case(
        "a file model has a clean path",
        {"model": {"uri": "file:///models//a"}},
        "spec.model.uri",
        "write where it leads",
    ),
    _Case(
        "torch serves no sim model",
        {"model": {"uri": "sim://a"}},
        "spec.model.uri",
        "sim:// has no weights",
    ),
    _Case("a digest is sha256", {"model": {"digest": "md5:00"}}, "spec.model.digest"),
    _Case(
        "a token's secret has a name",
        {"model": {"tokenSecretRef": {"key": "a"}}},
        "spec.model.tokenSecretRef.name",
    ),
    _Case(
        "a cache has one volume",
        {"model": {"cache": {"volume": {"emptyDir": {}, "hostPath": {"path": "/a"}}}}},
        "spec.model.cache.volume",
        _ONE_SOURCE,
    ),
    # The engine
    _Case("an engine is needed", {"engine": GONE}, "spec.engine"),
    _Case("an engine is chosen", {"engine": {"torch": GONE}}, "spec.engine", _ONE_ENGINE),
    _Case("a null chooses no engine", {"engine": {"torch": None}}, "spec.engine", _ONE_ENGINE),
    _Case("one engine is chosen", {"engine": {"vllm": {}}}, "spec.engine", _ONE_ENGINE),
    _Case(
        "a sampler needs room for a prompt and a token",
        {"engine": {"torch": {"maxModelLen": 1}}},
        "spec.engine.torch.maxModelLen",
    ),
    _Case(
        "a number format is known",
        {"engine": {"torch": {"dtype": "int8"}}},
        "spec.engine.torch.dtype",
    ),
    _Case(
        "words of a command line are text",
        {"engine": {"torch": {"extraArgs": ["--threads", 2]}}},
        "spec.engine.torch.extraArgs[1]",
    ),
    _Case(
        "some GPU memory is used",
        {"engine": {"torch": GONE, "vllm": {"gpuMemoryUtilization": 0}}},
        "spec.engine.vllm.gpuMemoryUtilization",
    ),
    _Case(
        "no more than all GPU memory is used",
        {"engine": {"torch": GONE, "vllm": {"gpuMemoryUtilization": 1.1}}},
        "spec.engine.vllm.gpuMemoryUtilization",
    ),
    _Case(
        "jitter is less than the whole time",
        {"engine": {"torch": GONE, "sim": {"jitter": 1}}},
        "spec.engine.sim.jitter",
    ),
    _Case(
        "yes is not true",
        {"engine": {"torch": {"batchInvariant": "yes"}}},
        "spec.engine.torch.batchInvariant",
    ),
    # Size
    _Case("replicas are not negative", {"replicas": -1}, "spec.replicas"),
    _Case("replicas have a limit", {"replicas": 10001}, "spec.replicas"),
    _Case("replicas are no text", {"replicas": "3"}, "spec.replicas"),
    _Case("replicas are whole", {"replicas": 1.5}, "spec.replicas"),
    _Case("replicas are not true", {"replicas": True}, "spec.replicas"),
    _Case("a model is on a GPU at least", {"tensorParallelSize": 0}, "spec.tensorParallelSize"),
    _Case(
        "several engines share one GPU, not two",
        {**_VLLM, "tensorParallelSize": 2, "enginesPerGPU": 2},
        "spec.enginesPerGPU",
        "tensorParallelSize must be 1",
    ),
    _Case(
        "a pod has the GPUs of its model, not fewer",
        {**_VLLM, "tensorParallelSize": 2, "gpu": {"count": 1}},
        "spec.gpu.count",
        "must be 0 (run on CPUs) or equal tensorParallelSize",
    ),
    _Case(
        "limits have no GPUs",
        {"resources": {"limits": {"nvidia.com/gpu": 1}}},
        "spec.resources",
        _NO_DEVICES,
    ),
    _Case(
        "requests have no GPUs, also of another kind",
        {"gpu": {"resourceName": "a.b/c"}, "resources": {"requests": {"a.b/c": "1"}}},
        "spec.resources",
        _NO_DEVICES,
    ),
    _Case(
        "an amount is a quantity",
        {"resources": {"limits": {"cpu": "many"}}},
        "spec.resources.limits.cpu",
    ),
    _Case("shared memory is a quantity", {"shmSize": "1 GiB"}, "spec.shmSize"),
    _Case("shared memory is not negative", {"shmSize": "-1Gi"}, "spec.shmSize"),
    _Case("shared memory is not a negative number", {"shmSize": -1}, "spec.shmSize"),
    _Case("a fraction is written in quotes", {"shmSize": 0.5}, "spec.shmSize"),
    _Case(
        "shared memory leaves room for the rest",
        {"shmSize": "16Gi", "resources": {"limits": {"memory": "16384Mi"}}},
        "spec.shmSize",
        "counts against resources.limits.memory",
    ),
    _Case("a start takes some time", {"startupTimeoutSeconds": 9}, "spec.startupTimeoutSeconds"),
    _Case(
        "a pod is available before its rollout has failed",
        {"minReadySeconds": 310, "startupTimeoutSeconds": 10},
        "spec.minReadySeconds",
        "must be less than rollout.progressDeadlineSeconds",
    ),
    _Case(
        "a pod is available before the given deadline",
        {"minReadySeconds": 60, "rollout": {"progressDeadlineSeconds": 60}},
        "spec.minReadySeconds",
        "must be less than rollout.progressDeadlineSeconds",
    ),
    # Adapters
    _Case(
        "a slot is left to publish",
        _lora(maxAdapters=1, adapters=[adapter("a")]),
        "spec.lora.adapters",
        "fewer than maxAdapters",
    ),
    _Case(
        "declared adapters fit",
        _lora(maxAdapters=1, publish=False, adapters=[adapter("a"), adapter("b")]),
        "spec.lora.adapters",
        "fewer than maxAdapters",
    ),
    _Case(
        "adapters lie below a volume",
        _lora(adapters=[adapter("a", "/elsewhere/a")]),
        "spec.lora.adapters",
        "below the mountPath of one of the volumes",
    ),
    _Case(
        "a path that only begins like a volume's is not below it",
        _lora(adapters=[adapter("a", "/adapters2/a")]),
        "spec.lora.adapters",
        "below the mountPath of one of the volumes",
    ),
    _Case(
        "adapters need a volume",
        {"lora": {"adapters": [adapter("a")]}},
        "spec.lora.adapters",
        "below the mountPath of one of the volumes",
    ),
    _Case(
        "adapters have different names",
        _lora(adapters=[adapter("a"), adapter("a", "/adapters/b")]),
        "spec.lora.adapters",
        _UNIQUE,
    ),
    _Case(
        "an adapter's name is no path",
        _lora(adapters=[adapter("a/b")]),
        "spec.lora.adapters[0].name",
    ),
    _Case(
        "an adapter's path is absolute",
        _lora(adapters=[adapter("a", "a")]),
        "spec.lora.adapters[0].path",
    ),
    *(
        _Case(
            f"an adapter's path leads where it reads, unlike {path}",
            _lora(adapters=[adapter("a", path)]),
            "spec.lora.adapters[0].path",
            _CLEAN,
        )
        for path in (
            "/adapters/../etc",
            "/adapters/a/..",
            "/adapters/./a",
            "/adapters/.",
            "/adapters//a",
        )
    ),
    _Case(
        "an adapter's digest is whole",
        _lora(adapters=[adapter("a", digest="sha256:00")]),
        "spec.lora.adapters[0].digest",
    ),
    _Case(
        "volumes have different names",
        {"lora": {"volumes": [VOLUME, VOLUME | {"mountPath": "/b"}]}},
        "spec.lora.volumes",
        _UNIQUE,
    ),
    _Case(
        "a volume is not mounted inside another",
        {"lora": {"volumes": [VOLUME, VOLUME | {"name": "b", "mountPath": "/adapters/b"}]}},
        "spec.lora.volumes",
        "mount paths must not lie inside each other",
    ),
    _Case(
        "two volumes are not mounted at one place",
        {"lora": {"volumes": [VOLUME, VOLUME | {"name": "b"}]}},
        "spec.lora.volumes",
        "mount paths must not lie inside each other",
    ),
    _Case(
        "a volume has a source",
        _volume(persistentVolumeClaim=GONE),
        "spec.lora.volumes[0]",
        _ONE_SOURCE,
    ),
    _Case(
        "a volume has one source",
        _volume(nfs={"server": "a", "path": "/"}),
        "spec.lora.volumes[0]",
        _ONE_SOURCE,
    ),
    _Case(
        "a mount path is absolute", _volume(mountPath="adapters"), "spec.lora.volumes[0].mountPath"
    ),
    _Case(
        "a mount path has no slash at its end",
        _volume(mountPath="/adapters/"),
        "spec.lora.volumes[0].mountPath",
    ),
    *(
        _Case(
            f"a mount path leads where it reads, unlike {path}",
            {"lora": {"volumes": [VOLUME, VOLUME | {"name": "b", "mountPath": path}]}},
            "spec.lora.volumes[1].mountPath",
            _CLEAN,
        )
        for path in ("/b/../adapters", "//adapters", "/b//c", "/./adapters", "/b/..")
    ),
    *(
        _Case(
            f"a volume is not mounted over the server's own {path}",
            _volume(mountPath=path),
            "spec.lora.volumes[0].mountPath",
            "the server has a directory of its own there",
        )
        for path in ("/tmp", "/dev/shm", *own_directories())
    ),
    _Case(
        "a directory of a node is absolute",
        _volume(persistentVolumeClaim=GONE, hostPath={"path": "a"}),
        "spec.lora.volumes[0].hostPath.path",
    ),
    _Case(
        "an empty directory is on disk or in memory",
        _volume(persistentVolumeClaim=GONE, emptyDir={"medium": "Disk"}),
        "spec.lora.volumes[0].emptyDir.medium",
    ),
    # Pods
    _Case("an image is not empty", {"image": ""}, "spec.image"),
    _Case(
        "images are pulled by a known policy", {"imagePullPolicy": "Maybe"}, "spec.imagePullPolicy"
    ),
    _Case("a label is text", {"nodeSelector": {"gpu": True}}, "spec.nodeSelector.gpu"),
    _Case(
        "a taint has a known effect",
        {"tolerations": [{"effect": "NoWay"}]},
        "spec.tolerations[0].effect",
    ),
    _Case("tolerations are a list", {"tolerations": "gpu"}, "spec.tolerations"),
    _Case("tolerations are bounded", {"tolerations": [{"key": "a"}] * 65}, "spec.tolerations"),
    _Case("an affinity is a mapping", {"affinity": ["zone"]}, "spec.affinity"),
    _Case(
        "a constraint is a mapping",
        {"topologySpreadConstraints": ["zone"]},
        "spec.topologySpreadConstraints[0]",
    ),
    _Case(
        "variables have different names",
        {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
        "spec.env",
        _UNIQUE,
    ),
    _Case(
        "a variable has one value",
        {"env": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {}}}]},
        "spec.env[0]",
        "give value or valueFrom, not both",
    ),
    _Case("a variable's value is text", {"env": [{"name": "A", "value": 1}]}, "spec.env[0].value"),
    _Case("a variable's name is no assignment", {"env": [{"name": "A=1"}]}, "spec.env[0].name"),
    _Case(
        "the label that selects pods is the operator's",
        {"podMetadata": {"labels": {"sampler.dev/fleet": "a"}}},
        "spec.podMetadata.labels",
        "are the operator's",
    ),
    _Case(
        "the label of the manager is the operator's",
        {"podMetadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}},
        "spec.podMetadata.labels",
        "are the operator's",
    ),
    # Rollout, and what stands beside the pods
    _Case("a rollout moves", {"rollout": {"maxUnavailable": 0}}, "spec.rollout", _NOT_BOTH_ZERO),
    _Case(
        "a rollout moves, also in per cent",
        {"rollout": {"maxSurge": "0%", "maxUnavailable": "0%"}},
        "spec.rollout",
        _NOT_BOTH_ZERO,
    ),
    _Case("a share has its sign", {"rollout": {"maxSurge": "25"}}, "spec.rollout.maxSurge"),
    _Case(
        "a number of pods is not negative",
        {"rollout": {"maxUnavailable": -1}},
        "spec.rollout.maxUnavailable",
    ),
    _Case("a strategy is known", {"rollout": {"strategy": "Canary"}}, "spec.rollout.strategy"),
    _Case(
        "a drain takes a day at most",
        {"rollout": {"drainSeconds": 86401}},
        "spec.rollout.drainSeconds",
    ),
    _Case("auth names a secret", {"auth": {}}, "spec.auth.tokenSecretRef"),
    _Case("TLS names a secret", {"tls": {"secretName": ""}}, "spec.tls.secretName"),
    _Case(
        "an interval has a unit",
        {"monitoring": {"podMonitor": {"interval": "15"}}},
        "spec.monitoring.podMonitor.interval",
    ),
    _Case(
        "peers are a list",
        {"networkPolicy": {"from": "all"}},
        "spec.networkPolicy.from",
    ),
    # Names
    _Case("an unknown field is refused", {"replica": 2}, "spec.replica"),
    _Case(
        "an unknown field deep inside is refused",
        _lora(adapters=[adapter("a", revision="1")]),
        "spec.lora.adapters[0].revision",
    ),
    _Case("Python's names are not those of YAML", {"shm_size": "1Gi"}, "spec.shm_size"),
    _Case("Python's from_ is from", {"networkPolicy": {"from_": []}}, "spec.networkPolicy.from_"),
    _Case(
        "a name leaves room for those of children",
        {},
        "metadata.name",
        "must have at most 40 characters",
        name="a" * 41,
    ),
    _Case(
        "a name is not that of another fleet's Service",
        {},
        "metadata.name",
        "must not end in -replicas",
        name="fleet-replicas",
    ),
    _Case(
        "a name begins with a letter",
        {},
        "metadata.name",
        "must have at most 40 characters",
        name="7b",
    ),
    _Case(
        "a name has no dots",
        {},
        "metadata.name",
        "must have at most 40 characters",
        name="policy.v1",
    ),
    _Case("a name is lower case", {}, "metadata.name", name="Fleet"),
)
