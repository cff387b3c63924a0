"""Where a row is played: a fleet of its own, its clients, and the moment of the fault."""

import json
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from tests.apiserver_client import Object
from tests.cluster.cluster import Cluster
from tests.e2e_fleet import E2eFleet, endpoint_of
from tests.faults.clients import ClientProcess
from tests.faults.figures import Evidence, Figures, flow_of, measured, pod_of
from tests.faults.journal import Ended, Event
from tests.faults.load import CALLS, RUN, SAMPLES
from tests.faults.pods import PodWatch, restarts_of
from tests.faults.volume import LEDGERS_AT, with_ledgers
from tests.ledger import read_ledger
from tests.proxy import wait_until

from sampler_api.names import DATA_PORT
from sampler_server.engines.sim import base_digest

__all__ = ["MODEL", "Stage"]

MODEL: Final = "policy"
_REPLICAS: Final = 3
_DECODE_RATE: Final = 40
_WAIT_SECONDS: Final = 120
_LOOK_SECONDS: Final = 0.1
_SPEC: Final[Mapping[str, Any]] = {
    "model": {"uri": f"sim://{MODEL}"},
    "engine": {
        "sim": {
            "maxNumSeqs": CALLS * SAMPLES,
            "decodeRate": _DECODE_RATE,
            "prefillRate": 20000,
            "extraArgs": ["--sim-ledger", f"{LEDGERS_AT}/$(SAMPLER_POD_NAME)"],
        }
    },
    "replicas": _REPLICAS,
    "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}},
    "rollout": {"drainSeconds": 10},
}


class Stage:
    """The fleet ``name`` in a namespace whose claim ``ledgers`` leads to ``ledgers``.

    ``spec`` is merged over the fleet's own. A ``with`` block starts the fleet and ends it.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        ledgers: Path,
        folder: Path,
        spec: Mapping[str, Any],
    ) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name = name
        self.fleet = E2eFleet(cluster, namespace, name)
        self.pods = PodWatch(cluster.client, namespace, name)
        self.spec = with_ledgers(merged(_SPEC, spec))
        self.bases = [base_digest(MODEL)]
        self.fault_at: float | None = None
        self.recovered_at: float | None = None
        self.abandoned_at: float | None = None
        self.hit: set[str] = set()
        self.ledgers = ledgers
        self._folder = folder
        self.clients: list[ClientProcess] = []
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._delete)
            self.apply()
            stack.enter_context(self.pods)
            self.fleet.wait_up_to_date()
            self.wait(lambda: len(self.pods.ready) == self.spec["replicas"], "all pods are ready")
            self._ends = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    # -- the fleet ---------------------------------------------------------------------------------

    def apply(self) -> None:
        """Have the fleet be as ``spec`` says."""
        manifest = {
            "apiVersion": "sampler.dev/v1alpha1",
            "kind": "SamplerDeployment",
            "metadata": {"name": self.name},
            "spec": self.spec,
        }
        self.kubectl("apply", "-f", "-", input=json.dumps(manifest))

    def change(self, **changes: Any) -> None:
        """Merge into the spec, as people do who edit their file."""
        self.spec = merged(self.spec, changes)
        self.apply()

    def kubectl(self, *words: str, check: bool = True, **options: Any) -> str:
        """What kubectl prints about this namespace; of a command that fails, its complaint."""
        done = self.cluster.kubectl("--namespace", self.namespace, *words, check=check, **options)
        return done.stderr if done.returncode else done.stdout

    def condition(self, kind: str) -> Object:
        """A condition of the fleet's status; empty where there is none."""
        path = f"/apis/sampler.dev/v1alpha1/namespaces/{self.namespace}/samplerdeployments"
        status = self.cluster.client.get(f"{path}/{self.name}").get("status", {})
        return next((c for c in status.get("conditions", ()) if c["type"] == kind), {})

    # -- clients -----------------------------------------------------------------------------------

    def start_load(self, *words: str, target: str = "k8s", run: int = 1) -> ClientProcess:
        """A process that samples: ``target`` is how it finds replicas, k8s, dns or pods."""
        at = {
            "k8s": f"k8s://{self.namespace}/{self.name}",
            "dns": f"dns://{self.name}-replicas.{self.namespace}.svc.cluster.local",
            "pods": ",".join(map(endpoint_of, self.pods.ready)),
        }[target]
        resolver = self.cluster.dns_address if target == "dns" else ""
        replicas = self.spec["replicas"] * self.spec.get("enginesPerGPU", 1)
        words = ("--run", str(run), "--replicas", str(replicas), *words)
        return self._start("tests.faults.load", at, f"load-{run}", *words, resolver=resolver)

    def start_http_load(self) -> ClientProcess:
        """A process that streams plain HTTP through the ClusterIP."""
        path = f"/api/v1/namespaces/{self.namespace}/services/{self.name}"
        address = self.cluster.client.get(path)["spec"]["clusterIP"]
        url = f"http://{address}:{DATA_PORT}/v1/completions"
        return self._start("tests.faults.http_load", url, "http")

    def _start(
        self, module: str, at: str, name: str, *words: str, resolver: str = ""
    ) -> ClientProcess:
        journal = self._folder / f"{self.name}-{name}.jsonl"
        config = self.cluster.admin_kubeconfig
        client = ClientProcess(module, at, journal, *words, kubeconfig=config, resolver=resolver)
        self._ends.push(client)
        self.clients.append(client)
        return client

    @property
    def events(self) -> list[Event]:
        """Of all clients, by time of writing."""
        events = [event for client in self.clients for event in client.events]
        return events if len(self.clients) == 1 else sorted(events, key=lambda each: each.at)

    def wait_in_flight(self, calls: int = CALLS) -> None:
        """Until most sequences of that many calls have begun to arrive, and some have ended."""
        wanted = calls * SAMPLES * 3 // 4

        def are_in_flight() -> bool:
            has_ended = any(isinstance(event, Ended) for event in self.events)
            return has_ended and len(self.running()) >= wanted

        self.wait(are_in_flight, f"{wanted} sequences are in flight")

    def wait_in_flight_of(self, run: int) -> None:
        """Until sequences of the second or a later client have begun to arrive."""

        def have_begun() -> bool:
            return sum(seed // RUN == run for seed, _ in self.running()) >= CALLS * SAMPLES // 2

        self.wait(have_begun, f"sequences of client {run} are in flight")

    def running(self) -> dict[tuple[int, int], str]:
        """Sequences that are under way now, and who makes them."""
        now = time.monotonic()
        flows = flow_of(self.events)
        return {key: f.replica_at(now) for key, f in flows.items() if f.is_in_flight(now)}

    def busiest(self, among: Collection[Object] | None = None) -> Object:
        """The ready pod, or the one ``among`` these, that makes most sequences now."""
        makers = [pod_of(replica) for replica in self.running().values()]
        pods = self.pods.ready if among is None else among
        return max(pods, key=lambda pod: makers.count(pod["metadata"]["name"]))

    # -- the fault ---------------------------------------------------------------------------------

    def strike(self, *pods: Object) -> None:
        """The fault happens now, to these pods; without any, to all that run or to none."""
        self.hit = {pod["metadata"]["name"] for pod in pods}
        self.fault_at = time.monotonic()

    def recovered(self) -> None:
        """All is as before, as far as anybody can see."""
        self.recovered_at = time.monotonic()

    def wait(self, holds: Callable[[], object], what: str, seconds: float = _WAIT_SECONDS) -> None:
        """Until ``holds``."""
        wait_until(holds, f"{self.name}: {what}", seconds, _LOOK_SECONDS)

    def wait_recovered(self, holds: Callable[[], object] | None = None) -> None:
        """Until as many replicas as are wanted are ready, and ``holds``."""
        wanted = self.spec["replicas"]

        def is_as_before() -> bool:
            return len(self.pods.ready) == wanted and (holds is None or bool(holds()))

        self.wait(is_as_before, f"{wanted} replicas serve again", 180)
        self.recovered()

    def for_seconds(self, seconds: float) -> None:
        """The fault lasts so long."""
        ends = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > ends, f"{seconds:g} s have passed", seconds + 10)

    def tokens_made(self, pod: str) -> int:
        """By a pod, as its ledger says."""
        path = self.ledgers / pod
        return sum(len(each.tokens) for each in read_ledger(path)) if path.exists() else 0

    def before_end(self, undo: Callable[[], object]) -> None:
        """Undo a fault when all is measured."""
        self._ends.callback(undo)

    def has_restarted(self, pod: Object) -> bool:
        """Its container has been started once more since then."""
        return restarts_of(self.pods.pod(pod["metadata"]["name"])) > restarts_of(pod)

    def finish(self, is_planned: bool) -> Figures:
        """Let the clients have what they asked for, and measure. ``is_planned``: replicas were
        told to leave, and hand over."""
        assert self.fault_at is not None, "the row has no fault"
        for client in self.clients:
            client.stop()
        for client in self.clients:
            client.wait()
        return measured(
            Evidence(
                self.events,
                {path.name: read_ledger(path) for path in self.ledgers.glob(f"{self.name}-*")},
                self.fault_at,
                frozenset(self.hit),
                self.pods.told_to_leave if is_planned else {},
                tuple(self.bases),
                self.abandoned_at,
            )
        )

    @property
    def recovery_s(self) -> float | None:
        """Seconds from the fault until all was as before."""
        if self.recovered_at is None or self.fault_at is None:
            return None
        return round(self.recovered_at - self.fault_at, 1)

    def _delete(self) -> None:
        self.kubectl("delete", "sd", self.name, "--wait=false")
        selector = f"--selector=sampler.dev/fleet={self.name}"
        force = ("--force", "--grace-period=0", "--wait=false")
        # Their drains would take the next row's time.
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name}"
        self.wait(lambda: not self.cluster.client.exists(path), "its Deployment is gone")
        self.kubectl("delete", "pods", selector, *force)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``: maps merge, None deletes, everything else is replaced."""
    result = dict(base)
    for name, value in changes.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
            result[name] = merged(result[name], value)
        else:
            result[name] = value
    return result
