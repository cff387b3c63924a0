"""The operator: from a ``SamplerDeployment`` to running replicas, on Kubernetes or one machine."""
