"""``sampler-operator run``: the operator of a cluster."""

import asyncio
import logging
import os
import sys
from typing import Annotated

import typer

from .errors import OperatorError
from .settings import OperatorConfig, default_images

__all__ = ["app"]

app = typer.Typer(name="sampler-operator", add_completion=False, pretty_exceptions_enable=False)

_LEVELS = ("debug", "info", "warning", "error")


@app.callback()
def main() -> None:
    """Rolls out SamplerDeployments."""


@app.command()
def run(
    kubeconfig: Annotated[
        str | None,
        typer.Option(help="Of the cluster.", show_default="the pod's own rights, else the user's"),
    ] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(help="Serve only this one, with the rights of a Role; repeatable."),
    ] = None,
    own_namespace: Annotated[
        str,
        typer.Option(envvar="POD_NAMESPACE", help="Where this runs; NetworkPolicies let it in."),
    ] = "",
    image_vllm: Annotated[str | None, typer.Option(envvar="SAMPLER_IMAGE_VLLM")] = None,
    image_torch: Annotated[str | None, typer.Option(envvar="SAMPLER_IMAGE_TORCH")] = None,
    image_sim: Annotated[str | None, typer.Option(envvar="SAMPLER_IMAGE_SIM")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Passes at the same time.")] = 16,
    resync_seconds: Annotated[
        float, typer.Option(min=1, help="Everything is looked at again so often.")
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
    if kubeconfig is not None:
        os.environ["KUBECONFIG"] = kubeconfig  # where kopf looks
    from .kube.operator import KubeOperator, serve_metrics

    try:
        if metrics_port:
            serve_metrics(metrics_port)
        asyncio.run(KubeOperator(config).run())
    except OperatorError as error:
        _fail(error.message, 1)


def _fail(line: str, code: int) -> None:
    print(f"sampler-operator: {line}", file=sys.stderr, flush=True)
    raise SystemExit(code)


if __name__ == "__main__":
    app()
