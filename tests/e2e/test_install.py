"""From nothing to replicas that serve: `helm install`, `kubectl apply`, `kubectl wait`."""

import json
import re
from pathlib import Path
from typing import Final

from tests.e2e_fleet import E2eFleet, ended_by_themselves
from tests.kube_commands import KubeCommands
from tests.rendered_chart import RELEASE

TABLE: Final = Path(__file__).parents[2] / "docs" / "status-table.txt"


def test_the_installed_operator_is_ready_as_an_unprivileged_user(
    cluster: KubeCommands, operator: str
) -> None:
    in_namespace = f"--namespace={operator}"
    listed = cluster.kubectl("get", "pods", in_namespace, "--output=json").stdout
    [pod] = json.loads(listed)["items"]
    [status] = pod["status"]["containerStatuses"]
    assert status["ready"]
    assert ended_by_themselves([pod]) == []
    user = cluster.kubectl("exec", in_namespace, f"deployment/{RELEASE}", "--", "id", "-u")
    assert user.stdout == "2000\n"


def test_the_charts_own_test_passes(cluster: KubeCommands, operator: str) -> None:
    told = cluster.helm("test", RELEASE, "--namespace", operator, "--timeout", "90s", seconds=100)
    assert "Phase:          Succeeded" in told.stdout


def test_a_fleet_of_the_example_serves_where_only_restricted_pods_may_run(
    fleet: E2eFleet,
) -> None:
    pods = fleet.ready_pods()
    assert len(pods) == 3
    assert ended_by_themselves(pods) == []
    # Both nodes of the cluster have some: that both can run pods is part of the test.
    assert len({pod["spec"]["nodeName"] for pod in pods}) >= 2


def test_kubectl_shows_the_fleet_as_the_documentation_says(fleet: E2eFleet) -> None:
    shown = [re.sub(r"\S+$", "AGE", line.rstrip()) for line in fleet.table("sd/sim").splitlines()]
    command, *known = TABLE.read_text().splitlines()
    assert command == "$ kubectl get sd"
    assert shown == [re.sub(r"\S+$", "AGE", line) for line in known]
    assert "3 of 3 replicas ready" in fleet.table("sd/sim", "--output=wide")
