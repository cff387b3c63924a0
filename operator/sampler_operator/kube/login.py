"""kopf's watches with the credentials of our own calls.

kopf reads kubeconfigs itself, but only the one of the environment, and it starts no credential
plugins, without which kubeconfigs of managed clusters are of no use.
"""

import kopf

from .api import KubeApi

__all__ = ["kubeconfig_login"]


async def kubeconfig_login(api: KubeApi) -> kopf.ConnectionInfo:
    """The server and user of ``api``."""
    configuration = api.configuration
    scheme, _, token = (await api.authorization()).rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )
