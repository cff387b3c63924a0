"""Every error of the operator.

* OperatorError
  * InvalidSpec     a SamplerDeployment that cannot be meant; names the field
  * ClusterError    a call to the cluster (or to this machine, in the local runtime)
    * Refused         the object is wrong: it will be refused again until the spec changes
    * Denied          the operator has no right to do this; the message names verb and resource
      * NamespaceGoing  the namespace is being deleted, and takes nothing new
    * Missing         the kind or its namespace does not exist
    * Unavailable     no answer, or one that says to come again (retryable)
  * Unreachable     a replica gave no status (retryable)
  * NotStructural   a model that the API server's schemas cannot express (a fault of this package)

Pickle: all arguments are the constructor's.
"""

from typing import Any, ClassVar

__all__ = [
    "ClusterError",
    "Denied",
    "InvalidSpec",
    "Missing",
    "NamespaceGoing",
    "NotStructural",
    "OperatorError",
    "Refused",
    "Unavailable",
    "Unreachable",
]


class OperatorError(Exception):
    """Base of all errors: ``message`` is one line for people, ``field`` what to change."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.message, self.field)

    def __str__(self) -> str:
        return self.message


class InvalidSpec(OperatorError, ValueError):
    """A SamplerDeployment that cannot be meant."""


class ClusterError(OperatorError):
    """Base of failed calls to the cluster."""


class Refused(ClusterError):
    """The API server refuses the object."""


class NamespaceGoing(Refused):
    """The namespace is being deleted: everything in it goes, and nothing is to be put there."""


class Denied(ClusterError):
    """The operator may not do this."""


class Missing(ClusterError):
    """The kind, or the namespace, does not exist."""


class Unavailable(ClusterError):
    """No answer, or a request to come again."""

    retryable = True


class Unreachable(OperatorError):
    """A replica gave no status."""

    retryable = True


class NotStructural(OperatorError, TypeError):
    """A model says what no structural schema can say; the message names the place."""
