"""A ``KubeApi`` whose API server is an aiohttp application of the test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from kubernetes.aio.client import Configuration

from sampler_operator.kube.api import KubeApi

__all__ = ["api_of"]


@asynccontextmanager
async def api_of(app: web.Application) -> AsyncIterator[KubeApi]:
    """Serves ``app`` on a free port for as long as the block lasts."""
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api = KubeApi(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"))
    try:
        yield api
    finally:
        await api.close()
        await runner.cleanup()
