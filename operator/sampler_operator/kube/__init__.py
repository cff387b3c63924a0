"""The operator on Kubernetes: kopf watches, kubernetes.aio writes."""
