"""The helper that starts operators starts a real one: it works, ends when told, and comes again."""

from tests.apiserver import ApiServer
from tests.installed_crd import sampler_path
from tests.operator_process import OperatorProcess
from tests.proxy import wait_until
from tests.spec_cases import MINIMAL, manifest


def test_an_operator_is_started_stopped_killed_and_started_again(
    api_server: ApiServer, namespace: str
) -> None:
    with OperatorProcess(api_server, "--namespace", namespace) as operator:
        api_server.client.post(sampler_path(namespace), manifest(MINIMAL))
        path = sampler_path(namespace, "fleet")
        wait_until(
            lambda: api_server.client.get(path).get("status", {}).get("observedGeneration") == 1,
            "the operator has written a status",
        )
        assert operator.writes() > 0
        assert operator.stop() == 0
        operator.start()
        first = operator.pid
        operator.kill()
        assert not operator.is_running
        operator.start()
        assert operator.pid != first
    assert not operator.is_running
    assert "create Deployment fleet" in operator.log
