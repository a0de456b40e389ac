"""`visdeploy VERB`: thin commands over the SDK.

Exit codes: 0 ok; 1 a check failed; 2 bad usage, input or bundle; 3 a missing engine or package; 130 Ctrl-C.
"""

from visdeploy.cli import exporting, machine, serving, training
from visdeploy.cli.app import app, main

__all__ = ["app", "exporting", "machine", "main", "serving", "training"]
