"""Which certificates of replicas a client believes."""

import ssl

from sampler_api.errors import InvalidRequest

__all__ = ["tls_context"]


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Trusts the authorities in ``ca_file``, by default the system's.

    Read anew for every connection: a fleet's own authority may be replaced. Raises InvalidRequest.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise InvalidRequest(f"ca_file: {ca_file}: cannot be used ({reason})", "ca_file") from None
