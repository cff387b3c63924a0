"""Reasons of conditions and events. Programs and alerts know them: a name never changes."""

from enum import StrEnum

__all__ = ["Reason"]


class Reason(StrEnum):
    """Why a condition is as it is."""

    # Accepted
    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    INVALID_POD_TEMPLATE = "InvalidPodTemplate"
    NAME_TAKEN = "NameTaken"
    CHILD_REFUSED = "ChildRefused"
    FORBIDDEN = "Forbidden"
    MISSING_KIND = "MissingKind"

    # Ready, UpToDate, Progressing
    SERVING = "Serving"
    SCALED_TO_ZERO = "ScaledToZero"
    UP_TO_DATE = "UpToDate"
    COMPLETE = "Complete"
    ROLLING_OUT = "RollingOut"
    SCALING = "Scaling"
    WAITING_FOR_REPLICAS = "WaitingForReplicas"
    PAUSED = "Paused"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    CLUSTER_UNAVAILABLE = "ClusterUnavailable"

    # AdaptersReady
    NONE_DECLARED = "NoneDeclared"
    ADAPTERS_HELD = "AdaptersHeld"
    ADAPTERS_LOADING = "AdaptersLoading"
    ADAPTER_FAILED = "AdapterFailed"
    STATUS_UNREACHABLE = "StatusUnreachable"
    NO_REPLICAS = "NoReplicas"

    # Stalled
    NO_FAULT = "NoFault"

    # VolumesShareable
    CLAIM_OF_ONE_NODE = "ClaimOfOneNode"

    # Faults of replicas, the most telling first
    POD_REFUSED = "PodRefused"
    MODEL_MISMATCH = "ModelMismatch"
    IMAGE_NEVER_PULL = "ImageNeverPull"
    IMAGE_PULL = "ImagePull"
    MISSING_CONFIG = "MissingConfig"
    CONTAINER_FAILED = "ContainerFailed"
    VOLUME_UNBOUND = "VolumeUnbound"
    MOUNT_FAILED = "MountFailed"
    FETCH_FAILED = "FetchFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    ENGINE_START_FAILED = "EngineStartFailed"
    UNSCHEDULABLE = "Unschedulable"
    POD_REJECTED = "PodRejected"
    EVICTED = "Evicted"
    NODE_LOST = "NodeLost"
    NOT_READY = "NotReady"

    # States of replicas that are no faults
    STARTING = "Starting"
    PENDING = "Pending"
