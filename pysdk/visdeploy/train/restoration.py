"""Learning to make a picture good again: larger, sharper, without text or JPEG's traces, in colour."""

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from visdeploy import models
from visdeploy.data import Dataset
from visdeploy.data.augment import Mirror
from visdeploy.errors import InputError
from visdeploy.metrics import Fidelity
from visdeploy.models.registry import REGISTRY
from visdeploy.train.crops import PictureCrops
from visdeploy.train.loader import Augmentation, Examples
from visdeploy.train.options import TrainOptions
from visdeploy.train.restoration_losses import FeatureLoss
from visdeploy.train.task import Task


class RestorationTask(Task):
    """L1, and where the options say so differences of features; measured by PSNR and SSIM."""

    examples = PictureCrops
    reported = ("ssim", "psnr_before")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.features: FeatureLoss | None = None
        if self.options.feature_loss or self.options.gram_loss:
            # Not that of `net`, which earlier stages have changed.
            assert self.spec.architecture is not None
            taught = models.create(**self.spec.architecture, weights=self.options.weights)
            self.features = FeatureLoss(taught.get_submodule("encoder"))

    @classmethod
    def select(cls, dataset: Dataset, options: TrainOptions) -> Dataset:
        """Return all of it, if it has pictures to restore."""
        if not all(item.load_target for item in (*dataset.train, *dataset.val)):
            raise InputError("[train] data: expected a clean picture for every image, as the task is restoration")
        return dataset

    @classmethod
    def architecture(cls, dataset: Dataset, options: TrainOptions) -> dict[str, Any]:
        """Three channels, which a model that can adds to its input."""
        decided: dict[str, Any] = {"num_classes": 3}
        model = REGISTRY.get(options.arch)
        if model and "residual" in inspect.signature(model.model).parameters and "residual" not in options.model:
            decided["residual"] = True
        return decided

    @classmethod
    def spec_fields(cls, dataset: Dataset, net: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
        """Return how many times larger the answer is."""
        return {"enlarge": dataset.enlarge}

    @classmethod
    def augmentation(cls, options: TrainOptions) -> Augmentation:
        """Mirror alone: to turn or to zoom would blur what is to be learnt."""
        return Mirror(options.flip, options.upside_down)

    def sets(self, dataset: Dataset, seed: int) -> tuple[Examples, Examples]:
        """Return crops with new damage for each, if the data are made so."""
        augment = self.augmentation(self.options)
        train = PictureCrops(dataset.train, self.spec, augment, seed, dataset.degrade)
        return train, PictureCrops(dataset.val, self.spec)

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the weighted sum of what the options name."""
        wanted = (target.float() - self.mean) / self.std
        loss = functional.l1_loss(answer, wanted)
        if self.features is not None:
            feature, gram = self.features(answer, wanted)
            loss = loss + self.options.feature_loss * feature + self.options.gram_loss * gram
        return loss

    def start_measuring(self) -> None:
        """Count from nothing."""
        self.fidelity = Fidelity()

    def measure(self, answer: Tensor, target: Tensor, images: Tensor) -> None:
        """Compare the pictures of one batch, rounded as serving rounds them."""
        samples = (answer * self.std + self.mean).round().clamp(0, 255).byte()
        for pictures in zip(samples, images, target, strict=True):
            self.fidelity.add(*(picture.permute(1, 2, 0).numpy(force=True) for picture in pictures))

    def measured(self) -> dict[str, float]:
        """Return PSNR and SSIM, of the answers and of what came in."""
        return self.fidelity.metrics()
