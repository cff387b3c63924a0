"""``python -m sampler_operator.schema`` prints the CRD as YAML."""

import sys

from .crd import crd_yaml

if __name__ == "__main__":
    sys.stdout.write(crd_yaml())
