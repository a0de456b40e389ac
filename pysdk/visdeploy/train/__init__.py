"""Training on Lightning: `fit(dataset, TrainOptions(...))`."""

from visdeploy.errors import requires

with requires("visdeploy.train needs torch, torchvision and lightning", "train"):
    from visdeploy.train import recipes
    from visdeploy.train.fit import TrainResult, fit
    from visdeploy.train.options import TrainOptions

__all__ = ["TrainOptions", "TrainResult", "fit", "recipes"]
