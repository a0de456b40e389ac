"""Training on Lightning: `fit(dataset, TrainOptions(...))`."""

from visdeploy.errors import MissingDependencyError

try:
    from visdeploy.train import recipes
    from visdeploy.train.fit import TrainResult, fit
    from visdeploy.train.options import TrainOptions
except ModuleNotFoundError as error:
    if error.name is None or error.name.startswith("visdeploy"):
        raise
    raise MissingDependencyError(
        f"visdeploy.train needs {error.name}, which is not installed: pip install 'visdeploy[train]'"
    ) from error

__all__ = ["TrainOptions", "TrainResult", "fit", "recipes"]
