"""``sampler-operator run``: the operator of a cluster; ``check``: whether it could work there."""

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sampler_core.loops import new_event_loop

from .errors import OperatorError
from .settings import OperatorConfig, default_images

if TYPE_CHECKING:
    from .kube.check import Checked

__all__ = ["app"]

app = typer.Typer(name="sampler-operator", add_completion=False, pretty_exceptions_enable=False)

_LEVELS = ("debug", "info", "warning", "error")

Kubeconfig = Annotated[
    str | None,
    typer.Option(help="Of the cluster.", show_default="the pod's own rights, else the user's"),
]
Namespaces = Annotated[
    list[str] | None,
    typer.Option(help="Serve only this one, with the rights of a Role; repeatable."),
]


@app.callback()
def main() -> None:
    """Rolls out SamplerDeployments."""


@app.command()
def run(
    kubeconfig: Kubeconfig = None,
    namespace: Namespaces = None,
    own_namespace: Annotated[
        str,
        typer.Option(envvar="POD_NAMESPACE", help="Where this runs; NetworkPolicies let it in."),
    ] = "",
    image_vllm: Annotated[str | None, typer.Option(envvar="SAMPLER_IMAGE_VLLM")] = None,
    image_torch: Annotated[str | None, typer.Option(envvar="SAMPLER_IMAGE_TORCH")] = None,
    image_sim: Annotated[str | None, typer.Option(envvar="SAMPLER_IMAGE_SIM")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Passes at the same time.")] = 16,
    resync_seconds: Annotated[
        float, typer.Option(min=1, help="Each fleet is looked at anew so often.")
    ] = 600.0,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for Prometheus and probes; 0 = none.")
    ] = 8080,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Watch SamplerDeployments and keep the cluster as they say, until SIGTERM."""
    if log_level not in _LEVELS:
        _fail(f"--log-level: must be one of {', '.join(_LEVELS)}, not {log_level!r}", 2)
    logging.basicConfig(
        level=log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # What kopf does for each object is of no interest; that a watch fails is.
    for noisy in ("kopf", "httpx"):
        logging.getLogger(noisy).setLevel("WARNING")
    # PodMonitors are optional; that the CRD of ours is missing is told otherwise.
    logging.getLogger("kopf._core.reactor.observation").setLevel("ERROR")
    given = {"vllm": image_vllm, "torch": image_torch, "sim": image_sim}
    config = OperatorConfig(
        kubeconfig=kubeconfig,
        namespaces=tuple(namespace or ()),
        own_namespace=own_namespace,
        images=default_images() | {name: image for name, image in given.items() if image},
        workers=workers,
        resync_seconds=resync_seconds,
        metrics_port=metrics_port,
    )
    from prometheus_client import REGISTRY

    from .kube.operator import KubeOperator
    from .kube.probes import serve_probes

    try:
        operator = KubeOperator(config)
        if metrics_port:
            serve_probes(metrics_port, operator.health, REGISTRY)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(operator.run())
    except OperatorError as error:
        _fail(error.message, 1)


@app.command()
def check(kubeconfig: Kubeconfig = None, namespace: Namespaces = None) -> None:
    """Say whether the CRD is there, and which rights are missing for ``run``."""
    namespaces = tuple(namespace or ())
    try:
        checked = asyncio.run(_checked(kubeconfig, namespaces))
    except OperatorError as error:
        _fail(error.message, 1)
    for line in checked.missing_optional:
        print(f"sampler-operator: {line}: free devices are not told (optional)")
    for line in checked.missing:
        print(f"sampler-operator: {line}", file=sys.stderr)
    where = f"namespaces {', '.join(namespaces)}" if namespaces else "all namespaces"
    if checked.missing:
        _fail(f"{len(checked.missing)} of {checked.asked} rights are missing in {where}", 1)
    print(f"sampler-operator: the CRD is there, and all {checked.asked} rights in {where}")


async def _checked(kubeconfig: str | None, namespaces: tuple[str, ...]) -> "Checked":
    from .kube.api import KubeApi
    from .kube.check import check

    api = await KubeApi.connect(kubeconfig)
    try:
        return await check(api, namespaces)
    finally:
        await api.close()


def _fail(line: str, code: int) -> NoReturn:
    print(f"sampler-operator: {line}", file=sys.stderr, flush=True)
    raise SystemExit(code)


if __name__ == "__main__":
    app()
