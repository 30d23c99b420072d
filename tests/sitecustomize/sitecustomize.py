"""Python imports this at start-up where `PYTHONPATH=tests/sitecustomize:.`: so CLI subprocesses get torchvision's cure too."""

import models_zoo  # noqa: F401  places the hook of models_zoo.torchvision_ops; imports no torch
