"""Every fleet is looked at again without a cause: what no watch tells is found, and steady fleets
cost the API server nothing.
"""

import pytest
from tests.apiserver import ApiServer
from tests.installed_crd import install_crd
from tests.live_fleet import LiveFleet
from tests.operator_thread import OperatorThread
from tests.proxy import wait_until

SHARED = {
    "model": {
        "uri": "hf://a/b",
        "cache": {"volume": {"persistentVolumeClaim": {"claimName": "cache"}}},
    },
    "engine": {"sim": None, "torch": {}},
    "replicas": 2,
    # No pods, of which watches would tell.
    "paused": True,
}


def put_claim(server: ApiServer, namespace: str, mode: str) -> None:
    """One claim in the place of another."""
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    if server.client.exists(f"{path}/cache"):
        server.client.delete(f"{path}/cache")
        # It is protected until a controller has seen that nobody uses it.
        wait_until(lambda: not server.client.exists(f"{path}/cache"), "the claim is gone")
    size = {"requests": {"storage": "1Gi"}}
    spec = {"accessModes": [mode], "resources": size, "storageClassName": "none"}
    server.client.post(path, {"metadata": {"name": "cache"}, "spec": spec})


def test_a_resync_finds_what_no_watch_tells(
    api_server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampler_operator.gathering._CLAIM_SECONDS", 0.5)
    install_crd(api_server)
    put_claim(api_server, namespace, "ReadWriteMany")
    kubeconfig = api_server.admin_kubeconfig
    with OperatorThread(kubeconfig, namespace, resync_seconds=1.0) as operator:
        fleet = LiveFleet(api_server, namespace)
        fleet.create(SHARED)
        fleet.wait_for("Ready", "False", "Paused")
        passes = operator.passes()
        wait_until(lambda: operator.passes() > passes + 2, "it is looked at again and again")
        assert fleet.condition("VolumesShareable") == {}
        before = operator.writes()
        put_claim(api_server, namespace, "ReadWriteOnce")
        fleet.wait_for("VolumesShareable", "False", "ClaimOfOneNode")
        passes = operator.passes()
        wait_until(lambda: operator.passes() > passes + 2, "it is looked at again and again")
        now = operator.writes()
    more = {what: n - before.get(what, 0) for what, n in now.items() if n != before.get(what)}
    assert more == {("SamplerDeployment", "status"): 1}
