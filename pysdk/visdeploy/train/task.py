"""The Lightning module: one step of learning, one step of checking, and the schedule."""

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from visdeploy.errors import InputError
from visdeploy.metrics import Confusion, headline
from visdeploy.models import freeze_encoder
from visdeploy.spec import Spec
from visdeploy.train.losses import binary_loss, multiclass_loss
from visdeploy.train.options import TrainOptions

Batch = tuple[Tensor, Tensor, list[str]]


class SegmentationTask(lightning.LightningModule):
    """Trains `net` on uint8 batches; normalisation is the spec's, as in the exported graph."""

    mean: Tensor
    std: Tensor
    class_weights: Tensor | None

    def __init__(
        self, net: nn.Module, spec: Spec, options: TrainOptions, stage: int, class_weights: Tensor | None
    ) -> None:
        super().__init__()
        self.net, self.spec, self.options = net, spec, options
        self.frozen_epochs = options.frozen_epochs_of(stage)
        self.lr = options.lr or 1e-3
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.confusion = Confusion(len(spec.labels))
        self.losses: list[float] = []
        self.figures: dict[str, float] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 (B, 3, H, W) to logits."""
        x = (images.float() - self.mean) / self.std
        logits: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return logits.float()

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss that the options name."""
        if self.spec.binary:
            return binary_loss(logits, target, pos_weight=self.options.pos_weight, dice=self.options.dice)
        return multiclass_loss(logits, target, class_weights=self.class_weights, dice=self.options.dice)

    def on_train_epoch_start(self) -> None:
        """Freeze or release the encoder."""
        frozen = self.current_epoch < self.frozen_epochs
        freeze_encoder(self.net, frozen)
        if frozen or self.options.freeze_bn:
            for module in self.net.get_submodule("encoder").modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        self.losses = []

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of one batch; a loss that is not finite ends the run."""
        images, masks, names = batch
        loss = self.loss(self(images), masks.long())
        if not torch.isfinite(loss):
            raise InputError(
                f"[train] the loss became {loss.item()} at epoch {self.current_epoch + 1}, step {batch_index + 1}, on "
                f"{', '.join(names)}; look at these files, or lower --lr"
            )
        self.losses.append(loss.item())
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's pixels."""
        self.confusion = Confusion(len(self.spec.labels))

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Count the pixels of one batch."""
        images, masks, _ = batch
        logits = self(images)
        predicted = (logits[:, 0] > 0).long() if self.spec.binary else logits.argmax(1)
        self.confusion.add(masks.numpy(force=True), predicted.numpy(force=True))

    def on_validation_epoch_end(self) -> None:
        """Publish the figures."""
        self.figures = self.confusion.metrics(self.spec.labels, self.spec.background)
        self.log("score", self.figures[headline(self.figures)])

    def configure_optimizers(self) -> Any:
        """AdamW with a slower encoder, no decay on biases and norms, and a one-cycle schedule."""
        groups: list[dict[str, Any]] = []
        for encoder in (True, False):
            for decayed in (True, False):
                chosen = [
                    parameter
                    for name, parameter in self.net.named_parameters()
                    if name.startswith("encoder.") == encoder and (parameter.ndim > 1) == decayed
                ]
                lr = self.lr * (self.options.encoder_lr if encoder else 1.0)
                decay = self.options.weight_decay if decayed else 0.0
                groups.append({"params": chosen, "lr": lr, "weight_decay": decay})
        optimizer = torch.optim.AdamW(groups, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in groups],
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=self.options.warmup,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
