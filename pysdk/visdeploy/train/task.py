"""The Lightning module that all tasks share: one step of learning, the optimiser and its schedule."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import lightning
import torch
from torch import Tensor, nn

from visdeploy.data import Dataset
from visdeploy.errors import InputError
from visdeploy.metrics import headline
from visdeploy.spec import Spec
from visdeploy.train.freezing import freeze, names_up_to
from visdeploy.train.loader import Augmentation, Examples
from visdeploy.train.options import TrainOptions

Batch = tuple[Tensor, Tensor, list[str]]


class Task(lightning.LightningModule, ABC):
    """Trains `net` on uint8 batches; normalisation is the spec's, as in the exported graph.

    Attributes:
        examples: The form in which it takes images and what is known of them.
        reported: Figures that a line of progress has besides the headline.
        gradient_clip: Largest norm of the gradient, or None.
    """

    examples: ClassVar[type[Examples]]
    reported: ClassVar[tuple[str, ...]] = ()
    gradient_clip: ClassVar[float | None] = None
    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, spec: Spec, options: TrainOptions, stage: int) -> None:
        super().__init__()
        self.net, self.spec, self.options = net, spec, options
        self.frozen_epochs = options.frozen_epochs_of(stage)
        self.frozen_names = names_up_to(net, options.freeze_to or 0)
        self.lr = options.lr or 1e-3
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1) * 255, persistent=False)
        self.losses: list[float] = []
        self.figures: dict[str, float] = {}

    @classmethod
    @abstractmethod
    def select(cls, dataset: Dataset, options: TrainOptions) -> Dataset:
        """Return what of a data set it learns from.

        Raises:
            InputError: There is nothing of the kind in it.
        """

    @classmethod
    @abstractmethod
    def architecture(cls, dataset: Dataset, options: TrainOptions) -> dict[str, Any]:
        """Return the arguments of `models.create` that follow from the data."""

    @classmethod
    @abstractmethod
    def spec_fields(cls, dataset: Dataset, net: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
        """Return the fields of the spec that only this task has."""

    @classmethod
    @abstractmethod
    def augmentation(cls, options: TrainOptions) -> Augmentation:
        """Return what makes new views of the training images."""

    @abstractmethod
    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch from the network's answer."""

    @abstractmethod
    def start_measuring(self) -> None:
        """Forget what was measured in the last epoch."""

    @abstractmethod
    def measure(self, answer: Tensor, target: Tensor, images: Tensor) -> None:
        """Take in the answers to one batch of held-out images."""

    @abstractmethod
    def measured(self) -> dict[str, float]:
        """Return the figures of all that was taken in."""

    def sets(self, dataset: Dataset, seed: int) -> tuple[Examples, Examples]:
        """Return what is learnt from, and what is held out, at the size of the spec."""
        train = self.examples(dataset.train, self.spec, self.augmentation(self.options), seed)
        return train, self.examples(dataset.val, self.spec)

    def prepare(self, train: Examples) -> None:
        """Look at the training data before the first step."""

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 (B, 3, H, W) to the network's answer."""
        x = (images.float() - self.mean) / self.std
        answer: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return answer.float()

    def on_train_epoch_start(self) -> None:
        """Freeze or release the encoder."""
        freeze(
            self.net,
            everything=self.current_epoch < self.frozen_epochs,
            names=self.frozen_names,
            statistics=bool(self.options.freeze_bn),
        )
        self.losses = []

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of one batch; a loss that is not finite ends the run."""
        images, target, names = batch
        loss = self.loss(self(images), target)
        if not torch.isfinite(loss):
            raise InputError(
                f"[train] the loss became {loss.item()} at epoch {self.current_epoch + 1}, step {batch_index + 1}, on "
                f"{', '.join(names)}; look at these files, or lower --lr"
            )
        self.losses.append(loss.item())
        return loss

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Keep one bad batch from undoing the others; Lightning's own way refuses fused optimisers."""
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.gradient_clip)

    def on_validation_epoch_start(self) -> None:
        """Measure anew."""
        self.start_measuring()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure one batch."""
        images, target, _ = batch
        self.measure(self(images), target, images)

    def on_validation_epoch_end(self) -> None:
        """Publish the figures."""
        self.figures = self.measured()
        self.log("score", self.figures[headline(self.figures)])

    def configure_optimizers(self) -> Any:
        """The optimiser and schedule of the options, with a slower encoder and no decay on biases and norms."""
        groups: list[dict[str, Any]] = []
        for encoder in (True, False):
            for decayed in (True, False):
                chosen = [
                    parameter
                    for name, parameter in self.net.named_parameters()
                    if name.startswith("encoder.") == encoder and (parameter.ndim > 1) == decayed
                ]
                # A body of the model's own starts from nothing, as the rest does.
                slow = encoder and self.options.encoder is not None
                lr = self.lr * (self.options.encoder_lr if slow else 1.0)
                decay = self.options.weight_decay if decayed else 0.0
                if chosen:
                    groups.append({"params": chosen, "lr": lr, "weight_decay": decay})
        optimizer = self._optimizer(groups)
        steps = int(self.trainer.estimated_stepping_batches)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._schedule(optimizer, steps), "interval": "step"},
        }

    def _optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if self.options.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=self.options.momentum, fused=True)
        kind = torch.optim.Adam if self.options.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, fused=True)

    def _schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        if self.options.schedule == "one_cycle":
            return torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=[group["lr"] for group in optimizer.param_groups],
                total_steps=steps,
                pct_start=self.options.warmup,
                cycle_momentum=self.options.optimizer != "sgd",  # whose momentum is an option
            )
        drops = [round(steps * self.options.step_at)] if self.options.schedule == "step" else []
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, gamma=0.1)
