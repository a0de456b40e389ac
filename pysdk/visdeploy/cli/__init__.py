"""`visdeploy VERB`: thin commands over the SDK.

Exit codes: 0 ok; 1 a check failed; 2 bad usage, input or bundle; 3 a missing engine or package;
130 Ctrl-C; 143 SIGTERM.
"""

# ruff: noqa: I001  (the help page lists the verbs in this order)
from visdeploy.cli import training, comparing, exporting, serving, machine
from visdeploy.cli.app import app, main

__all__ = ["app", "comparing", "exporting", "machine", "main", "serving", "training"]
