"""Specs of ``SamplerDeployment`` that models and API server both take."""

import copy
from typing import Any, Final

__all__ = [
    "DIGEST",
    "EVERYTHING",
    "GONE",
    "MINIMAL",
    "VALID",
    "VOLUME",
    "Spec",
    "adapter",
    "changed",
    "manifest",
]

Spec = dict[str, Any]

MINIMAL: Final[Spec] = {"model": {"uri": "hf://owner/model"}, "engine": {"torch": {}}}
GONE: Final = object()
"""In a change: the field is left out."""

VOLUME: Final[Spec] = {
    "name": "runs",
    "mountPath": "/adapters",
    "persistentVolumeClaim": {"claimName": "runs"},
}
DIGEST: Final = "sha256:" + "0123456789abcdef" * 4


def adapter(name: str, path: str | None = None, **more: Any) -> Spec:
    """A declared adapter below VOLUME."""
    return {"name": name, "path": path or f"/adapters/{name}", **more}


def manifest(spec: Spec, name: str = "fleet") -> Spec:
    """The whole object."""
    return {
        "apiVersion": "sampler.dev/v1alpha1",
        "kind": "SamplerDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }


def changed(spec: Spec, change: Spec) -> Spec:
    """``spec`` with ``change`` merged over it; lists are replaced."""
    made = copy.deepcopy(spec)
    for key, value in change.items():
        if value is GONE:
            made.pop(key, None)
        elif isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = changed(made[key], value)
        else:
            made[key] = value
    return made


EVERYTHING: Final[Spec] = {
    "model": {
        "uri": "hf://owner/model",
        "revision": "main",
        "digest": DIGEST,
        "name": "policy",
        "trustRemoteCode": True,
        "tokenSecretRef": {"name": "hub", "key": "access"},
        "cache": {"volume": {"hostPath": {"path": "/mnt/models", "type": "Directory"}}},
    },
    "engine": {
        "vllm": {
            "maxModelLen": 4096,
            "maxNumSeqs": 256,
            "extraArgs": ["--enforce-eager"],
            "dtype": "bfloat16",
            "gpuMemoryUtilization": 0.9,
            "maxNumBatchedTokens": 8192,
            "enablePrefixCaching": False,
            "quantization": "fp8",
        },
        "logprobsMode": "raw",
        "stallSeconds": 20,
        "orphanSeconds": 5.5,
    },
    "replicas": 3,
    "tensorParallelSize": 2,
    "enginesPerGPU": 1,
    "lora": {
        "maxRank": 32,
        "maxAdapters": 2,
        "publish": True,
        "volumes": [
            VOLUME,
            {
                "name": "nfs",
                "mountPath": "/nfs",
                "subPath": "team",
                "readOnly": False,
                "nfs": {"server": "files.example", "path": "/export"},
            },
            {"name": "node", "mountPath": "/node", "hostPath": {"path": "/a", "type": "Directory"}},
            {"name": "driver", "mountPath": "/csi", "csi": {"driver": "example.com"}},
            {
                "name": "scratch",
                "mountPath": "/scratch",
                "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"},
            },
        ],
        "adapters": [adapter("first", digest=DIGEST)],
        "storeSizeLimit": "5Gi",
    },
    "resources": {
        "requests": {"cpu": 4, "memory": "32Gi"},
        "limits": {"memory": "64Gi", "example.com/nic": 1},
    },
    "gpu": {"count": 2, "resourceName": "example.com/gpu"},
    "shmSize": "8Gi",
    "startupTimeoutSeconds": 7200,
    "minReadySeconds": 5,
    "image": "registry.example/sampler@sha256:00",
    "imagePullPolicy": "IfNotPresent",
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"example.com/pool": "gpus"},
    "tolerations": [
        {
            "key": "example.com/gpu",
            "operator": "Equal",
            "value": "true",
            "effect": "NoExecute",
            "tolerationSeconds": 60,
        }
    ],
    "affinity": {"podAntiAffinity": {"anything": ["here", 1]}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}],
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "schedulerName": "volcano",
    "env": [
        {"name": "A", "value": "1"},
        {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ],
    "envFrom": [{"configMapRef": {"name": "more"}}],
    "podMetadata": {"labels": {"team": "a"}, "annotations": {"example.com/note": "b"}},
    "serviceAccountName": "sampler",
    "podSecurityContext": {"runAsUser": None, "fsGroup": None},
    "rollout": {
        "strategy": "RollingUpdate",
        "maxSurge": "25%",
        "maxUnavailable": 0,
        "drainSeconds": 60,
        "progressDeadlineSeconds": 8000,
    },
    "paused": True,
    "auth": {"tokenSecretRef": {"name": "tokens", "key": "file"}},
    "tls": {"secretName": "certificate"},
    "disruptionBudget": {"enabled": False, "maxUnavailable": "10%"},
    "monitoring": {"podMonitor": {"labels": {"release": "prometheus"}, "interval": "30s"}},
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}],
        "monitoringNamespaces": ["monitoring"],
    },
    "podTemplateOverrides": {
        "metadata": {"labels": {"cost-centre": "7"}},
        "spec": {"hostNetwork": True, "dnsPolicy": None},
    },
}

VALID: Final[dict[str, Spec]] = {
    "model and engine are enough": MINIMAL,
    "every field may be given": EVERYTHING,
    "a null is a field that is left out": changed(
        MINIMAL,
        {"replicas": None, "lora": None, "gpu": None, "model": {"revision": None, "cache": None}},
    ),
    "the torch engine with all its settings": changed(
        MINIMAL,
        {
            "engine": {
                "torch": {
                    "maxModelLen": 2,
                    "maxNumSeqs": 1,
                    "extraArgs": ["--quiet"],
                    "dtype": "float32",
                    "maxKvTokens": 1,
                    "threads": 4,
                    "batchInvariant": True,
                }
            }
        },
    ),
    "the sim engine with all its settings and a model of its own": {
        "model": {"uri": "sim://any"},
        "engine": {
            "sim": {
                "maxModelLen": 64,
                "maxNumSeqs": 4,
                "extraArgs": ["--a"],
                "maxKvTokens": 4096,
                "prefillRate": 1000.5,
                "decodeRate": 50,
                "perSequenceSeconds": 0.001,
                "jitter": 0.5,
                "slowFactor": 0.5,
                "eosRate": 1,
            }
        },
    },
    "a claim and a directory of the image hold models too": changed(
        MINIMAL, {"model": {"uri": "pvc://claim/models/a"}}
    ),
    "a model of a claim leaves what only a download has alone": changed(
        MINIMAL,
        {"model": {"uri": "pvc://a/b", "tokenSecretRef": {"name": "hub"}, "cache": {}}},
    ),
    "a spec is rehearsed without weights by its engine alone": changed(
        MINIMAL,
        {
            "model": {
                "revision": "main",
                "trustRemoteCode": True,
                "tokenSecretRef": {"name": "hub"},
                "cache": {"volume": {"hostPath": {"path": "/models"}}},
            },
            "engine": {"torch": GONE, "sim": {}},
            "tensorParallelSize": 4,
        },
    ),
    "a file model is an absolute path": changed(MINIMAL, {"model": {"uri": "file:///models/a"}}),
    "no replicas, for later": changed(MINIMAL, {"replicas": 0}),
    "a fleet on CPUs has no GPUs, whatever its engine": changed(MINIMAL, {"gpu": {"count": 0}}),
    "lora with its defaults only": changed(MINIMAL, {"lora": {}}),
    "without publishing, declared adapters may take every slot": changed(
        MINIMAL,
        {
            "lora": {
                "publish": False,
                "maxAdapters": 2,
                "volumes": [VOLUME],
                "adapters": [adapter("a"), adapter("b")],
            }
        },
    ),
    "mount paths that only begin alike": changed(
        MINIMAL, {"lora": {"volumes": [VOLUME, VOLUME | {"name": "b", "mountPath": "/adapters2"}]}}
    ),
    "names of directories may have dots": changed(
        MINIMAL,
        {
            "lora": {
                "volumes": [VOLUME | {"mountPath": "/tmp/..a/.b./c.."}],
                "adapters": [adapter("a", "/tmp/..a/.b./c../...")],
            }
        },
    ),
    "recreating needs no pod to spare": changed(
        MINIMAL, {"rollout": {"strategy": "Recreate", "maxSurge": 0, "maxUnavailable": "0%"}}
    ),
    "shared memory of less than the limit, in other units": changed(
        MINIMAL, {"shmSize": 1073741823, "resources": {"limits": {"memory": "1Gi"}}}
    ),
    "a pod is ready for nearly as long as a rollout may take": changed(
        MINIMAL, {"minReadySeconds": 309, "startupTimeoutSeconds": 10}
    ),
}
