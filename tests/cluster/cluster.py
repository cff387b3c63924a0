"""A whole Kubernetes on this machine: a control plane, nodes that run pods, DNS.

It needs root, Linux and the packages that ``tests/cluster/requirements.py`` names. All of it is in
namespaces of its own and in one folder. This machine reaches pods and ClusterIPs by address.
"""

import os
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Self

from tests.apiserver_access import ApiAccess
from tests.apiserver_certificates import Authority
from tests.apiserver_client import Object, RefusedError
from tests.apiserver_flags import (
    API_PORT,
    api_server_flags,
    controller_manager_flags,
    etcd_flags,
    scheduler_flags,
)
from tests.cluster.cgroups import create_cgroups, pids_of_container, remove_cgroups
from tests.cluster.control_plane import CONTROLLER_FLAGS, NAMES, api_flags, apply_dns, corefile
from tests.cluster.machine import Machine
from tests.cluster.network import Network
from tests.cluster.node import Node
from tests.cluster.registry import claim, release
from tests.kube_tools import kube_tool
from tests.proxy import wait_until

__all__ = ["FOLDER", "Cluster"]

FOLDER: Final = Path(__file__).parent.parent.parent / ".cache" / "clusters"

_API: Final = "kube-apiserver"
_CONTROLLERS: Final = "kube-controller-manager"
_SCHEDULER: Final = "kube-scheduler"
_START_SECONDS: Final = 90


class Cluster(ApiAccess):
    """A cluster of ``nodes`` nodes, all with the images of ``archives``; a ``with`` block starts it
    and ends it.

    It ends with this process, however that ends; what then is left is cleared away by the next
    start, or by ``make cluster-down``. ``client`` is the administrator.
    """

    def __init__(self, nodes: int = 1, archives: Iterable[Path] = ()) -> None:
        entry = claim(FOLDER)
        self._entry = entry
        self._at = entry.addresses
        self._folder = Path(entry.folder)
        self._count = nodes
        self._archives = list(archives)
        self._network = Network(self._at)
        self._front = Authority(self._folder / "front")
        authority = Authority(self._folder / "certificates")
        super().__init__(self._folder, f"https://{self._at.control_plane}:{API_PORT}", authority)
        self._token_key = authority.signing_key("tokens")
        self._control = Machine(
            self._at.control_plane_name, self._folder / "control-plane", "", self._environment
        )
        self._nodes: dict[int, Node] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._end)
            self._network.create()
            for index in range(self._count):
                self._network.add_node(index)
                self._nodes[index] = self._node(index)
            with ThreadPoolExecutor(self._count, "tests-nodes") as pool:
                # Images are read in while the control plane starts.
                machines = [pool.submit(self._prepare, index) for index in self._nodes]
                self._start_control_plane()
                for machine in machines:
                    machine.result()
            for node in self._nodes.values():
                node.start_kubelet()
            for index in self._nodes:
                self.wait_ready(index)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def folder(self) -> Path:
        """Where everything is; logs are in ``*/logs``."""
        return self._folder

    @property
    def node_names(self) -> list[str]:
        """At the API server, by index."""
        return [self._at.node_name(index) for index in self._nodes]

    @property
    def fallen(self) -> dict[str, str]:
        """Programs that have ended by themselves, with the end of their logs."""
        machines: list[Machine] = [self._control, *(node.machine for node in self._nodes.values())]
        return {
            f"{name} of {machine.name}": machine.log(name)
            for machine in machines
            for name in machine.fallen()
        }

    @property
    def dns_address(self) -> str:
        """Who answers for names of the cluster."""
        return self._at.dns_service

    def import_image(self, archive: Path, nodes: Iterable[int] | None = None) -> None:
        """Give an archive's image to nodes, or to all of them; no registry is ever asked."""
        chosen = [self._nodes[index] for index in (self._nodes if nodes is None else nodes)]
        with ThreadPoolExecutor(len(chosen)) as pool:
            for done in [pool.submit(node.import_image, archive) for node in chosen]:
                done.result()

    def wait_ready(self, index: int) -> None:
        """Returns when the API server knows that the node is ready."""
        path = f"/api/v1/nodes/{self._at.node_name(index)}"

        def is_ready() -> bool:
            assert not self.fallen, self.fallen
            if not self.client.exists(path):
                return False
            conditions: list[Object] = self.client.get(path)["status"].get("conditions", [])
            return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

        wait_until(is_ready, f"{self._at.node_name(index)} is ready", _START_SECONDS)

    def node_kill(self, index: int) -> None:
        """The node loses its power: its processes, and with them its pods, are gone at once."""
        self._nodes[index].machine.kill()
        remove_cgroups(self._at.node_name(index))

    def node_start(self, index: int) -> None:
        """Start a node that was killed, which has its images still; returns when it is ready."""
        self._start_machine(index)
        self._nodes[index].start_kubelet()
        self.wait_ready(index)

    def node_cut(self, index: int) -> None:
        """Nobody reaches the node or its pods, which run on. This machine reaches ClusterIPs
        through node 0."""
        self._network.cut(index)

    def node_join(self, index: int) -> None:
        """Undo ``node_cut``."""
        self._network.join(index)

    def cut_pod(self, pod: Object) -> None:
        """This machine and the pod hear nothing of each other; its node and other pods do."""
        self._filter_pod("-I", pod)

    def join_pod(self, pod: Object) -> None:
        """Undo ``cut_pod``."""
        self._filter_pod("-D", pod)

    def packets_cut(self, pod: Object) -> int:
        """Packets that ``cut_pod`` has dropped."""
        listed = self._machine_of(pod).run("iptables", "-L", "FORWARD", "-v", "-x", "-n").stdout
        address = pod["status"]["podIP"]
        lines = [line.split() for line in listed.splitlines() if f" {address} " in f"{line} "]
        return sum(int(words[0]) for words in lines if words[2] == "DROP")

    def tag_image(self, image: str, name: str) -> None:
        """Give an image of all nodes a further name."""
        for node in self._nodes.values():
            words = ("ctr", "--namespace=k8s.io", "images", "tag", "--force")
            node.machine.run(*words, image, name)

    def node_machine(self, index: int) -> Machine:
        """To kill programs of a node alone, or to run a command there."""
        return self._nodes[index].machine

    def container_pid(self, pod: Object, container: str) -> int:
        """The first process of a pod's container, as this machine numbers it."""
        [status] = [
            each for each in pod["status"]["containerStatuses"] if each["name"] == container
        ]
        identity = status["containerID"].removeprefix("containerd://")
        pids = pids_of_container(pod["spec"]["nodeName"], identity)
        assert pids, f"no process of {container} in {pod['metadata']['name']}"
        return pids[0]

    def signal_container(self, pod: Object, container: str, number: signal.Signals) -> None:
        """Send a signal to its first process, of which the container knows nothing."""
        os.kill(self.container_pid(pod, container), number)

    def start_api(self) -> None:
        """Start the API server alone; returns when it is ready."""
        self._start(_API, self._api_flags)
        self._wait_for(_API, lambda: self.client.get("/readyz"))

    def stop_api(self) -> None:
        """SIGKILL to the API server alone."""
        self._control.kill_program(_API)

    @property
    def etcd_pid(self) -> int:
        """As this machine numbers it."""
        return self._control.pid("etcd")

    def restart_etcd(self) -> None:
        """SIGKILL, and start it again with its data."""
        self._control.kill_program("etcd")
        self._start_etcd()

    def stop_dns(self) -> None:
        """SIGKILL to the cluster's DNS."""
        self._control.kill_program("coredns")

    def start_dns(self) -> None:
        """Start it again."""
        self._start("coredns", ["-conf", str(self._folder / "Corefile")])

    def _filter_pod(self, action: str, pod: Object) -> None:
        address = pod["status"]["podIP"]
        for source, target in ((address, self._at.machine), (self._at.machine, address)):
            rule = ("--source", source, "--destination", target, "--jump", "DROP")
            self._machine_of(pod).run("iptables", action, "FORWARD", *rule)

    def _machine_of(self, pod: Object) -> Machine:
        [machine] = [
            node.machine
            for node in self._nodes.values()
            if node.machine.name == pod["spec"]["nodeName"]
        ]
        return machine

    def _node(self, index: int) -> Node:
        name = self._at.node_name(index)
        user = f"system:node:{name}"
        serving = self._authority.server(name, (f"IP:{self._at.node(index)}", f"DNS:{name}"))
        return Node(
            self._at,
            index,
            self._folder,
            self._environment,
            authority=self.ca,
            serving=serving,
            kubeconfig=self.kubeconfig(user, ("system:nodes",)),
            proxy_kubeconfig=self.kubeconfig("system:kube-proxy"),
        )

    def _start_machine(self, index: int) -> None:
        create_cgroups(self._at.node_name(index))
        self._nodes[index].start()

    def _prepare(self, index: int) -> None:
        self._start_machine(index)
        for archive in self._archives:
            self._nodes[index].import_image(archive)

    def _start_control_plane(self) -> None:
        at = self._at
        self._control.start()
        addresses = (f"IP:{at.control_plane}", f"IP:{at.api_service}", "DNS:localhost", *NAMES)
        serving = self._authority.server("api", addresses)
        kubelets = self._authority.user("kubelets", "kube-apiserver", ("system:masters",))
        proxy = self._front.user("proxy", "front-proxy")
        self._api_flags = [
            *api_server_flags(at.control_plane, self._authority, serving, self._token_key),
            *api_flags(at, self._authority, self._front, kubelets, proxy),
        ]
        self._start_etcd()
        self.start_api()
        # After the API server is ready: earlier they would wait in their back-off.
        config = self.kubeconfig(f"system:{_CONTROLLERS}")
        flags = controller_manager_flags(config, self._authority, self._token_key)
        self._start(_CONTROLLERS, [*flags, *CONTROLLER_FLAGS])
        self._start(_SCHEDULER, scheduler_flags(self.kubeconfig(f"system:{_SCHEDULER}")))
        apply_dns(self.client, at)
        (self._folder / "Corefile").write_text(corefile(at, self.kubeconfig("coredns")))
        self.start_dns()
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait_for(_CONTROLLERS, lambda: self.client.get(account))

    def _start_etcd(self) -> None:
        self._start("etcd", etcd_flags(self._at.control_plane, self._folder / "etcd"))

    def _start(self, name: str, flags: Iterable[str]) -> None:
        self._control.start_program(name, str(kube_tool(name)), *flags)

    def _wait_for(self, name: str, answered: Callable[[], object]) -> None:
        def holds() -> bool:
            if not self._control.is_program_running(name):
                raise RuntimeError(f"{name} has ended:\n{self._control.log(name)}")
            with suppress(OSError, RefusedError):
                answered()
                return True
            return False

        wait_until(holds, f"{name} is ready", _START_SECONDS)

    def _end(self) -> None:
        machines = [node.machine for node in self._nodes.values()]
        with ThreadPoolExecutor(len(machines) + 1) as pool:
            for done in [pool.submit(machine.close) for machine in (self._control, *machines)]:
                done.result()
        release(self._entry)
