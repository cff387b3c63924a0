"""What an operator costs with 1,000 SamplerDeployments, against a real API server.

All SamplerDeployments exist before the operator starts; times and requests are read from the API
server's audit log. ``burst``: writes (children and status) per second, from the operator's first
to its last child write. ``single``: from the answer to one change of a spec to the answer to the
last child write that follows from it, each change after the operator has come to rest;
``single_close``: one change after the other, while status and Events of the former are written.
``idle``: requests and CPU while nothing changes, with the usual resync. ``restart``: an operator
that finds all as it should be, and looks at each SamplerDeployment again every 10 s.

Baseline, in the same run and against the same server: a plain loop that writes the same children
with the same client library and nothing else, at the best of several concurrencies. A server gets
slower with every object, so one half of them is written before the operator's burst and the other
half after it.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.audit import POLICY, Audit, Request
from bench.plain_loop import PLAIN, PlainLoop, children_of
from bench.report import Row, arguments, publish
from tests.apiserver import ApiServer
from tests.installed_crd import install_crd
from tests.proxy import wait_until

from sampler_operator.kube.api import KubeApi
from sampler_operator.kube.resources import CHILDREN, path_of
from sampler_operator.objects import Manifest

NAMESPACE = "scale"
REST_SECONDS = 1.5
IDLE_SECONDS = 25.0
RESTART_SECONDS = 15.0
RESYNC_SECONDS = 10
CHILDREN_EACH = 5

ROWS: list[Row] = [
    ("burst_writes_per_s", "children and status a second", None, ""),
    ("burst_p99_ms", "ms from the first write to a current status", None, ""),
    ("single_p50_ms", "ms from a change to its last child", None, ""),
    ("single_p99_ms", "ms from a change to its last child", 100, "<="),
    ("single_close_p99_ms", "ms, changes in close succession", None, ""),
    ("api_requests_per_create", "requests until the status is current", 7, "<="),
    ("idle_requests_per_s", "requests a second, resync included", 0, "<="),
    ("idle_cpu_percent", "of one core", None, ""),
    ("restart_writes", "writes of a restart with nothing to do", 0, "<="),
    ("resync_requests_per_s", "requests a second, each looked at every 10 s", 0, "<="),
    ("resync_ms", "ms of CPU to look at one again", None, ""),
    ("rss_mib", "MiB at the highest", 150, "<="),
]


def sampler_deployment(name: str, namespace: str = NAMESPACE) -> Manifest:
    """One of many; no pods, which no kubelet would run."""
    return {
        "apiVersion": "sampler.dev/v1alpha1",
        "kind": "SamplerDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 0,
            "model": {"uri": "sim://bench"},
            "engine": {"sim": {"decodeRate": 64}},
            "lora": {"maxRank": 16},
        },
    }


async def create_all(api: KubeApi, count: int) -> list[Manifest]:
    """The SamplerDeployments, as the API server answers them."""
    path = "/apis/sampler.dev/v1alpha1/namespaces/{}/samplerdeployments"
    slots = asyncio.Semaphore(16)

    async def create(number: int) -> Manifest:
        async with slots:
            body = sampler_deployment(f"fleet-{number:04d}")
            answer: Manifest = await api.call("POST", path.format(NAMESPACE), body=body)
            return answer

    return await asyncio.gather(*(create(number) for number in range(count)))


async def prepared(server: ApiServer, count: int) -> PlainLoop:
    """SamplerDeployments made, and the plain loop that is to write the same children."""
    bench = await KubeApi.connect(str(server.kubeconfig("bench", ("system:masters",))))
    try:
        deployments = await create_all(bench, count)
        path = path_of(CHILDREN["ConfigMap"], PLAIN)
        owner = await bench.call("POST", path, body={"metadata": {"name": "owner"}})
        return PlainLoop(server, [children_of(sd, owner) for sd in deployments])
    finally:
        await bench.close()


class Operator:
    """The operator as a process of its own."""

    def __init__(self, server: ApiServer, folder: Path, *options: str) -> None:
        self.log = folder / f"operator-{time.monotonic_ns()}.log"
        command = [
            *(sys.executable, "-m", "sampler_operator", "run", "--metrics-port", "0"),
            *("--kubeconfig", str(server.kubeconfig("operator", ("system:masters",)))),
            *("--log-level", "warning", *options),
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def close(self) -> None:
        """End it and wait."""
        self.process.terminate()
        self.process.wait(30)

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """Most memory that it had resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def is_operators(request: Request) -> bool:
    """Made by the operator's user, its watches apart (they are answered when they end)."""
    return request.user == "operator" and request.verb != "watch"


def burst_figures(requests: list[Request], count: int) -> dict[str, float]:
    """From the audit log of a burst."""
    writes = [request for request in requests if request.is_write]
    children = [request for request in writes if request.subresource != "status"]
    first = min(request.received for request in children)
    last = max(request.answered for request in children)
    within = [request for request in writes if first <= request.answered <= last]
    by_name: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        if request.resource != "events":
            by_name[fleet_of(request)].append(request)
    until_current = []
    counts = []
    for made in by_name.values():
        status = next((n for n, r in enumerate(made) if r.subresource == "status"), None)
        if status is not None:
            counts.append(status + 1)
            until_current.append(made[status].answered - first)
    return {
        "burst_writes_per_s": len(within) / (last - first),
        "burst_p99_ms": 1e3 * percentile(until_current, 99),
        "api_requests_per_create": max(counts) if len(counts) == count else float("nan"),
    }


def fleet_of(request: Request) -> str:
    """The SamplerDeployment that a request is about: names begin with it."""
    return request.name[: len("fleet-0000")]


def percentile(values: list[float], share: int) -> float:
    """The value that ``share`` percent of the values do not exceed."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def single_times(server: ApiServer, audit: Audit, changes: int, rest: float) -> list[float]:
    """Seconds of one change at a time, each followed to its last child; between two there are
    ``rest`` seconds without a request of the operator."""
    client = server.client_of("bench", ("system:masters",))
    path = f"/apis/sampler.dev/v1alpha1/namespaces/{NAMESPACE}/samplerdeployments"
    taken = []
    engines = 2 if rest else 3
    patch = {"spec": {"rollout": {"drainSeconds": 60 + engines}, "enginesPerGPU": engines}}
    for number in range(changes):
        name = f"fleet-{number:04d}"
        come_to_rest(audit, rest)
        client.patch(f"{path}/{name}", patch)
        seen: list[Request] = []

        def is_done(seen: list[Request] = seen, name: str = name) -> bool:
            seen += audit.read()
            return sum(is_child(request, name) for request in seen) >= 2

        # Deployment and headless Service differ.
        wait_until(is_done, f"the children of {name} are written", 30)
        changed = next(r for r in seen if r.user == "bench" and r.verb == "patch")
        last = max(r.answered for r in seen if is_child(r, name))
        taken.append(last - changed.answered)
    return taken


def is_child(request: Request, name: str) -> bool:
    """A write of a child of ``name``."""
    return (
        is_operators(request)
        and request.is_write
        and fleet_of(request) == name
        and request.subresource != "status"
    )


def settled(audit: Audit, quiet_seconds: float = 4.0, limit: float = 240.0) -> list[Request]:
    """Wait until the operator has made no request for a while: all it made until then."""
    made: list[Request] = []
    quiet_since = started = time.monotonic()
    while time.monotonic() - quiet_since < quiet_seconds or not any(r.is_write for r in made):
        fresh = audit.read(is_operators)
        if fresh:
            made += fresh
            quiet_since = time.monotonic()
        if time.monotonic() - started > limit:
            raise TimeoutError("the operator does not come to rest")
        time.sleep(0.2)
    return made


@contextmanager
def control_plane(folder: Path) -> Iterator[tuple[ApiServer, Path]]:
    """An API server that writes its audit log."""
    policy, log = folder / "audit-policy.yaml", folder / "audit.log"
    policy.write_text(yaml.safe_dump(POLICY))
    options = (
        f"--audit-policy-file={policy}",
        f"--audit-log-path={log}",
        "--audit-log-mode=batch",
        "--audit-log-batch-max-wait=20ms",
        "--audit-log-maxsize=2000",
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
    )
    (folder / "server").mkdir()
    with ApiServer(folder / "server", options) as server:
        yield server, log


def measured(count: int, changes: int, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Figures and baseline."""
    with control_plane(folder) as (server, log):
        install_crd(server)
        for name in (NAMESPACE, PLAIN):
            server.client.post("/api/v1/namespaces", {"metadata": {"name": name}})
        plain = asyncio.run(prepared(server, count))
        asyncio.run(plain.before())
        audit = Audit(log)
        audit.read()
        operator = Operator(server, folder)
        try:
            figures = burst_figures(settled(audit), count)
            singles = single_times(server, audit, changes, REST_SECONDS)
            figures["single_p50_ms"] = 1e3 * percentile(singles, 50)
            figures["single_p99_ms"] = 1e3 * percentile(singles, 99)
            close = single_times(server, audit, changes, 0)
            figures["single_close_p99_ms"] = 1e3 * percentile(close, 99)
            come_to_rest(audit, 4.0)
            begun, cpu = time.monotonic(), operator.cpu_seconds()
            audit.read()
            time.sleep(IDLE_SECONDS)
            seconds = time.monotonic() - begun
            requests = audit.read(is_operators)
            for each in requests:
                print(f"while nothing changed: {each}", file=sys.stderr)
            figures["idle_requests_per_s"] = len(requests) / seconds
            figures["idle_cpu_percent"] = 100 * (operator.cpu_seconds() - cpu) / seconds
            figures["rss_mib"] = operator.peak_mib()
        finally:
            operator.close()
        audit.read()
        again = Operator(server, folder, "--resync-seconds", str(RESYNC_SECONDS))
        try:
            time.sleep(RESTART_SECONDS)
            writes = [r for r in audit.read(is_operators) if r.is_write]
            begun, cpu = time.monotonic(), again.cpu_seconds()
            time.sleep(IDLE_SECONDS)
            seconds = time.monotonic() - begun
            requests = audit.read(is_operators)
            looks = count * seconds / RESYNC_SECONDS
            figures["resync_requests_per_s"] = len(requests) / seconds
            figures["resync_ms"] = 1e3 * (again.cpu_seconds() - cpu) / looks
            figures["restart_writes"] = len(writes) + sum(r.is_write for r in requests)
            figures["rss_mib"] = max(figures["rss_mib"], again.peak_mib())
        finally:
            again.close()
        asyncio.run(plain.after())
        return figures, plain.rates


def come_to_rest(audit: Audit, seconds: float) -> None:
    """Let what follows from a change (status, Events) pass: no request for ``seconds``."""
    audit.read()
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < seconds:
        time.sleep(0.1)
        if audit.read(is_operators):
            quiet_since = time.monotonic()


def main() -> None:
    """Run it."""
    parser = arguments(__doc__)
    parser.add_argument("--count", type=int, default=None, help="SamplerDeployments")
    given = parser.parse_args()
    count = given.count or (100 if given.short else 1000)
    changes = min(count, 20 if given.short else 100)
    with tempfile.TemporaryDirectory(prefix="sampler-bench-") as folder:
        figures, baseline = measured(count, changes, Path(folder))
    # The halves are of about one size: by their times.
    mean = statistics.harmonic_mean(list(baseline.values()))
    baseline["burst_writes_per_s"] = mean
    ratio = {"burst_over_plain_apply": figures["burst_writes_per_s"] / mean}
    rows: list[Row] = [("burst_over_plain_apply", "ratio", 0.8, ">="), *ROWS]
    publish(
        "operator_scale",
        rows,
        figures | ratio,
        baseline,
        ratio,
        as_json=given.json,
        packages=("sampler-operator", "kopf", "kubernetes"),
    )


if __name__ == "__main__":
    main()
