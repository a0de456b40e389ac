"""Restoration: what crops are made of, what is measured, what is compared, and that it learns."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from visdeploy import data, image, models
from visdeploy.data.augment import Augment, Mirror
from visdeploy.data.dataset import Dataset, Item
from visdeploy.data.degrade import Degrade
from visdeploy.errors import InputError
from visdeploy.metrics import MAX_PSNR, Fidelity, psnr, ssim
from visdeploy.preprocess import prepare
from visdeploy.spec import Spec
from visdeploy.train import TrainOptions, checkpoint, fit
from visdeploy.train.crops import MaskCrops, PictureCrops, large_enough
from visdeploy.train.journal import Journal
from visdeploy.train.loader import Pairs
from visdeploy.train.restoration import RestorationTask
from visdeploy.train.restoration_losses import FeatureLoss, gram_matrix
from visdeploy.train.segmentation import SegmentationTask

FIELDS = {"task": "restoration", "size": 64, "mean": 0.5, "std": 0.25}


class Finest(nn.Module):
    """An encoder of two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = torch.relu(self.norm(self.first(x)))
        return [first, self.second(first)]


@models.register("toy_restorer", "One filter, and a map that is shuffled.", tasks=("restoration",), encoder="resnet18")
class Toy(nn.Module):
    def __init__(self, encoder: str, num_classes: int, residual: bool = False) -> None:
        super().__init__()
        self.encoder, self.residual = Finest(), residual
        self.head = nn.Sequential(nn.Conv2d(8, 4 * num_classes, 3, padding=1), nn.PixelShuffle(2))
        self.sharpen = nn.Conv2d(3, num_classes, 5, padding=2)
        for layer in (self.head[0], self.sharpen):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.encoder(x)[0]) + self.sharpen(x)
        return found + x if self.residual else found


def paint(seed: int, height: int = 96, width: int = 112) -> np.ndarray:
    """A picture with soft colours and sharp edges, as photographs have."""
    rng = np.random.default_rng(seed)
    soft = cv2.resize(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        points = rng.integers(0, (width, height), (3, 2)).astype(np.int32)
        cv2.fillPoly(soft, [points], rng.integers(0, 255, 3).tolist(), cv2.LINE_AA)
    return soft


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for index in range(10):
        image.write(root / f"photo{index}.png", paint(index))
    return root


def of_pictures(pictures: dict[str, np.ndarray], **fields) -> Dataset:
    """The pictures, each of which is its own clean one, to learn from and held out."""
    items = [Item(name, lambda p=p: p, load_target=lambda p=p: p) for name, p in pictures.items()]
    return Dataset((), (), items, items, **fields)


def options(out: Path, **changes) -> TrainOptions:
    given = {"task": "restoration", "arch": "toy_restorer", "sizes": ((64, 64),), "epochs": (2,), "batch": 4}
    return TrainOptions(**{"out": out, "precision": "fp32", "lr": 5e-3, "encoder_lr": 1.0, **given, **changes})


class Darken(Degrade):
    """Besides the rest it halves all samples, which a filter can soon undo."""

    def __call__(self, picture: np.ndarray, seed: int) -> np.ndarray:
        return super().__call__(picture, seed) // 2


def weights(out: Path) -> dict[str, Tensor]:
    return checkpoint.load(out)[0].state_dict()


def test_psnr_and_ssim_are_those_of_torchmetrics():
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

    rng = np.random.default_rng(0)
    clean = [paint(index, 61, 47 - 18 * index) for index in range(3)]
    noisy = [np.clip(p + rng.normal(0, 9 * k, p.shape), 0, 255).astype(np.uint8) for k, p in enumerate(clean, 1)]
    peak = PeakSignalNoiseRatio(data_range=255.0)
    alike = StructuralSimilarityIndexMeasure(data_range=255.0, sigma=1.5, kernel_size=11)
    expected = []
    for pair in zip(noisy, clean, strict=True):
        found, wanted = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() for picture in pair)
        expected.append((peak(found, wanted).item(), alike(found, wanted).item()))
    fidelity = Fidelity()
    for one, other in zip(noisy, clean, strict=True):
        fidelity.add(one, other, other)
    figures = fidelity.metrics()
    assert (figures["psnr"], figures["ssim"]) == pytest.approx(tuple(np.mean(expected, axis=0)), abs=1e-5)
    assert (figures["psnr_before"], figures["ssim_before"]) == (MAX_PSNR, pytest.approx(1))
    assert 15 < figures["psnr"] < 30


def test_pictures_that_cannot_be_compared_are_refused():
    small = np.zeros((8, 20, 3), np.uint8)
    with pytest.raises(
        InputError, match=r"\[psnr\] expected two uint8 pictures of one size, got uint8 \(8, 20, 3\) and"
    ):
        psnr(small, small[:, :10])
    with pytest.raises(InputError, match="expected two uint8 pictures of one size, got float32"):
        ssim(small.astype(np.float32), small)


def test_a_view_is_a_crop_with_new_damage_enlarged_as_serving_does():
    spec, degrade = Spec.parse(FIELDS | {"enlarge": 2}), Degrade(scale=2, jpeg=(10, 60))
    dataset = of_pictures({"a": paint(1), "b": paint(2)})
    views, again = (PictureCrops(dataset.train, spec, Mirror(), 3, degrade) for _ in range(2))
    seen = [views[0][:2], views[1][:2]]
    for index in (1, 0):  # whatever came before
        assert all(torch.equal(one, other) for one, other in zip(again[index][:2], seen[index], strict=True))
    again.epoch = 1
    assert not torch.equal(again[0][1], seen[0][1])
    undamaged = PictureCrops(dataset.train, spec, Mirror(), 3, Degrade(scale=2))
    bad, clean = undamaged[0][:2]
    assert torch.equal(clean, seen[0][1])
    assert not torch.equal(bad, seen[0][0])
    expected = prepare(Degrade(scale=2)(clean.permute(1, 2, 0).numpy(), 0), spec).pixels
    assert np.array_equal(bad.permute(1, 2, 0).numpy(), expected)
    found = cv2.matchTemplate(paint(1), clean.permute(1, 2, 0).numpy(), cv2.TM_SQDIFF).min()
    mirrored = cv2.matchTemplate(paint(1)[:, ::-1].copy(), clean.permute(1, 2, 0).numpy(), cv2.TM_SQDIFF).min()
    assert min(found, mirrored) < 100  # of 1e8: it goes through a Fourier transform


@pytest.mark.parametrize("augment", [None, Mirror(upside_down=True)])
def test_pairs_of_two_scales_are_cropped_at_one_place(augment):
    rows, columns = np.mgrid[:60, :50].astype(np.uint8)
    bad = np.stack([rows * 4, columns * 4, rows * 0], 2)
    clean = bad.repeat(2, 0).repeat(2, 1)
    items = [Item("ramp", lambda: bad, load_target=lambda: clean)]
    examples = PictureCrops(items, Spec.parse(FIELDS | {"enlarge": 2}), augment)
    for epoch in range(5):
        examples.epoch = epoch
        enlarged, target, _ = examples[0]
        assert enlarged.shape == target.shape == (3, 64, 64)
        assert (enlarged.int() - target.int()).abs().max() <= 2
        assert augment or torch.equal(target, torch.from_numpy(clean[28:92, 18:82]).permute(2, 0, 1))


@pytest.mark.parametrize("augment", [None, Augment(rotate=0, scale=(1, 1), shift=0, lighting=0)])
def test_image_and_mask_are_cropped_together(augment):
    pixels = paint(4)
    fields = FIELDS | {"task": "segmentation", "labels": ("a",), "size": (64, 32), "resize": "tile"}
    items = [Item("one", lambda: pixels, load_mask=lambda: pixels[..., 0])]
    examples = MaskCrops(items, Spec.parse(fields), augment)
    seen = set()
    for epoch in range(6):
        examples.epoch = epoch
        view, mask, _ = examples[0]
        assert torch.equal(view[0], mask)
        assert mask.shape == (64, 32)
        seen.add(mask.numpy().tobytes())
    assert len(seen) == 6 if augment else seen == {pixels[16:80, 40:72, 0].tobytes()}


def test_segmentation_is_learnt_on_crops_where_it_is_served_by_windows(tmp_path):
    items = [Item("one", lambda: paint(4), load_mask=lambda: paint(4)[..., 0])]
    dataset = Dataset(("a", "b"), ((0, 0, 0),) * 2, items, items)
    for resize, kind in (("stretch", Pairs), ("letterbox", Pairs), ("tile", MaskCrops), ("native", MaskCrops)):
        chosen = TrainOptions(tmp_path, resize=resize)
        spec = Spec.parse(FIELDS | {"task": "segmentation", "labels": ("a", "b"), "resize": resize})
        train, val = SegmentationTask(nn.Conv2d(3, 2, 1), spec, chosen, 0).sets(dataset, 5)
        assert (type(train), type(val), train.seed) == (kind, kind, 5)
        assert train.augment is not None
        assert val.augment is None


def test_what_can_be_residual_is_unless_asked_otherwise(tmp_path):
    def decided(**changes):
        return RestorationTask.architecture(of_pictures({}), options(tmp_path, **changes))

    assert decided(arch="dynamic_unet") == {"num_classes": 3, "residual": True}
    assert decided(arch="dynamic_unet", model={"residual": False}) == {"num_classes": 3}


def test_images_smaller_than_the_crop_are_left_out_by_name():
    pictures = {"good": paint(0), "low": paint(1, 63, 99), "exact": paint(2, 64, 64)}
    kept = large_enough(of_pictures(pictures), Spec.parse(FIELDS))
    assert [item.name for item in kept.train] == [item.name for item in kept.val] == ["good", "exact"]
    (note,) = kept.notes
    assert note.startswith("left out, as smaller than the crop of 64x64: low (99x63)")
    with pytest.raises(InputError, match=r"crop larger than the images: .* 128x128 .* the largest, good, has 112x96"):
        large_enough(of_pictures(pictures), Spec.parse(FIELDS | {"size": 128}))
    with pytest.raises(InputError, match="size: expected multiples of 3 for crops, got 64x64"):
        large_enough(of_pictures(pictures), Spec.parse(FIELDS | {"enlarge": 3}))


def test_a_residual_model_begins_with_what_it_is_given(tmp_path):
    fields = FIELDS | {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    task = RestorationTask(Toy("resnet18", 3, residual=True), Spec.parse(fields), options(tmp_path), 0)
    images, target = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    task.start_measuring()
    task.measure(task(images), target, images)
    figures = task.measured()
    assert list(figures) == ["psnr", "ssim", "psnr_before", "ssim_before"]
    assert (figures["psnr"], figures["ssim"]) == (figures["psnr_before"], figures["ssim_before"])


def test_it_learns_and_says_how_pictures_are_made(photos, tmp_path, capsys):
    dataset = data.open(photos, task="restoration", degrade=Darken(scale=2))
    small = Item("small", lambda: paint(0, 20, 20), load_target=lambda: paint(0, 40, 40), enlarge=2)
    result = fit(
        replace(dataset, train=[*dataset.train, small]), options(tmp_path / "run", epochs=(10,), lr=2e-2, ema=0.5)
    )
    assert "left out, as smaller than the crop of 64x64: small (40x40)" in capsys.readouterr().out
    assert result.metrics["psnr"] > result.metrics["psnr_before"] + 2
    net, spec = checkpoint.load(result.checkpoint)
    assert isinstance(net, Toy)
    assert net.residual
    assert (spec.task, spec.enlarge, spec.resize, spec.labels) == ("restoration", 2, "tile", ())
    assert spec.metrics == result.metrics
    item = dataset.val[0]
    assert any(
        np.array_equal(image.decode(path), item.load_image()) for path in (tmp_path / "run" / "golden").iterdir()
    )


def test_resuming_gives_the_run_that_was_not_stopped(photos, tmp_path, monkeypatch):
    dataset = data.open(photos, task="restoration", degrade=Degrade(jpeg=(20, 50)))
    fit(dataset, options(tmp_path / "whole"))

    def stop(self, trainer, module):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "on_train_epoch_start", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, options(tmp_path / "stopped"))
    fit(dataset, options(tmp_path / "stopped"), resume=True)
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(InputError, match=r"other options or data: data was 8 images .*\(20, 50\).* now .*\(20, 60\)"):
        fit(replace(dataset, degrade=Degrade(jpeg=(20, 60))), options(tmp_path / "whole"), resume=True)


def test_features_are_those_of_the_weights_and_never_learn(photos, tmp_path):
    torch.manual_seed(0)
    taught = models.create("toy_restorer", encoder="resnet18", num_classes=3, residual=True)
    torch.save(taught.state_dict(), tmp_path / "taught.pt")
    dataset = data.open(photos, task="restoration", degrade=Degrade(scale=2))
    chosen = options(tmp_path / "run", weights=str(tmp_path / "taught.pt"), feature_loss=0.5, gram_loss=2.0)
    fields = FIELDS | {"architecture": {"name": "toy_restorer", "encoder": "resnet18", "num_classes": 3}}
    task = RestorationTask(
        models.create("toy_restorer", encoder="resnet18", num_classes=3), Spec.parse(fields), chosen, 0
    )
    assert task.features is not None
    task.train()
    found, wanted = taught.get_submodule("encoder").state_dict(), task.features.encoder.state_dict()
    answer, target = torch.randn(2, 3, 64, 64), torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    clean = (target.float() - 127.5) / 63.75
    feature, gram = task.features(answer, clean)
    l1 = (answer - clean).abs().mean()
    assert task.loss(answer, target).item() == pytest.approx((l1 + 0.5 * feature + 2 * gram).item())
    assert feature > 0 < gram
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert not any(parameter.requires_grad for parameter in task.features.encoder.parameters())
    assert fit(dataset, replace(chosen, epochs=(1,))).metrics["psnr"] > 10
    for path in (tmp_path / "run").rglob("*.ckpt"):  # nor are they saved again with every epoch
        saved = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        assert {name.partition(".")[0] for name in saved} == {"net"}


def test_gram_matrices_tell_what_there_is_and_not_where():
    features = torch.randn(2, 5, 6, 7)
    assert gram_matrix(features).shape == (2, 5, 5)
    assert torch.allclose(gram_matrix(features), gram_matrix(features.roll(3, 3)), atol=1e-6)
    assert gram_matrix(features)[1, 2, 3].item() == pytest.approx((features[1, 2] * features[1, 3]).mean().item())
    picture = torch.randn(1, 3, 32, 32)
    assert [loss.item() for loss in FeatureLoss(Finest())(picture, picture)] == [0, 0]


def test_wrong_options_and_data_are_refused(photos, tmp_path):
    with pytest.raises(InputError, match="gram_loss: expected an encoder and its weights"):
        options(tmp_path, gram_loss=1.0)
    with pytest.raises(InputError, match="feature_loss: expected a number of at least 0, got -1"):
        options(tmp_path, feature_loss=-1.0)
    with pytest.raises(InputError, match="feature_loss: goes with restoration, got the task segmentation"):
        TrainOptions(tmp_path, feature_loss=1.0)
    with pytest.raises(InputError, match="lighting: goes with segmentation or detection or"):
        options(tmp_path, lighting=0.5)
    items = [Item("a", lambda: paint(0))] * 2
    with pytest.raises(InputError, match="expected a clean picture for every image"):
        fit(Dataset((), (), items, items), options(tmp_path / "run"))
    dataset = data.open(photos, task="restoration", degrade=Degrade(scale=2))
    with pytest.raises(InputError, match=r"resize: expected native or tile for restoration, got stretch"):
        fit(dataset, options(tmp_path / "run", resize="stretch"))
    assert not (tmp_path / "run").exists()
