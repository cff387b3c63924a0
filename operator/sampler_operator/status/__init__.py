"""What the status of a SamplerDeployment says, and which events are told of it. Pure: the time of
day is handed in."""

from .conditions import Condition, ConditionType
from .events import events
from .fault import Fault, Gravity
from .faults import pod_fault
from .invalid import invalid_status, not_understood
from .reasons import Reason
from .situation import Situation
from .summary import is_same_status, state_of, status

__all__ = [
    "Condition",
    "ConditionType",
    "Fault",
    "Gravity",
    "Reason",
    "Situation",
    "events",
    "invalid_status",
    "is_same_status",
    "not_understood",
    "pod_fault",
    "state_of",
    "status",
]
