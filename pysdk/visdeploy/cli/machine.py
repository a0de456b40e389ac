"""check, cache."""

import json
from typing import Annotated

import typer

from visdeploy.cli.app import app
from visdeploy.cli.options import AsJson
from visdeploy.errors import CheckFailedError, MissingDependencyError

cache_app = typer.Typer(help="Compiled engines, kept under $VISDEPLOY_CACHE.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")


@app.command()
def check(
    gpu: Annotated[bool, typer.Option("--gpu", help="Run every op on the GPU and compare it with the CPU.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can run, why not the rest, and what to install."""
    if gpu:
        return _check_gpu(as_json)
    from visdeploy.check import check as ask

    found = ask()
    if as_json:
        print(json.dumps(found.to_dict()))
    else:
        print("\n".join(found.lines()))
    if not found.ok:
        raise MissingDependencyError("no engine can run here; the usual one is: pip install 'visdeploy[openvino]'")


@cache_app.command("ls")
def cache_ls(as_json: AsJson = False) -> None:
    """List the compiled engines that are kept for the next load, last used first; --json has all that they are for."""
    from datetime import datetime

    from visdeploy import cache

    kept, folder = cache.entries(), cache.directory()
    total = sum(entry.size for entry in kept)
    if as_json:
        listed = [entry.to_dict() for entry in kept]
        print(json.dumps({"directory": str(folder), "bytes": total, "limit": cache.limit(), "entries": listed}))
        return
    for entry in kept:
        used = datetime.fromtimestamp(entry.used).isoformat(" ", "minutes")
        parts = "  ".join(
            f"{name} {value:.12}" if name == "model" else value
            for name in ("engine", "version", "precision", "shape", "shapes", "model")
            if (value := entry.key.get(name))
        )
        print(f"{entry.size / 1e6:8.1f} MB  used {used}  {parts}")
    print(f"{folder}: {f'{total / 1e6:.1f} MB' if kept else 'empty'}, of at most {cache.limit() / 1e6:.0f} MB")


@cache_app.command("clear")
def cache_clear(as_json: AsJson = False) -> None:
    """Remove them all; they are made again when next needed."""
    from visdeploy import cache

    freed = cache.clear()
    print(json.dumps({"freed": freed}) if as_json else f"{cache.directory()}: {freed / 1e6:.1f} MB freed")


def _check_gpu(as_json: bool) -> None:
    from dataclasses import asdict

    from visdeploy import gpu_check

    rows = gpu_check.run()
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        for row in rows:
            answer = f"differs at {', '.join(row.different)}" if row.different else "as on the CPU"
            print(f"  {row.op:<18} {row.cases:>4} cases {row.seconds:7.1f} s  {answer}")
    different = [row.op for row in rows if row.different]
    if different:
        raise CheckFailedError(f"answers on the GPU differ from the CPU's: {', '.join(different)}")
