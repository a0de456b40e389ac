"""The model that serving is timed with: a U-Net over ResNet34 at 512x512, from a short run on scenes of 1918x1280."""

from pathlib import Path

from visdeploy import data
from visdeploy.data.scenes import write_scenes
from visdeploy.train import TrainOptions, checkpoint, fit

FOLDER = Path(__file__).parent.parent.parent / "build" / "serving"
BUNDLE = FOLDER / "car.vdz"
SCENES = FOLDER / "scenes"
RUN = FOLDER / "run"
SIZE = (512, 512)


def prepare() -> None:
    """Draw, train and export once; some minutes on two cores."""
    if not SCENES.is_dir():
        unfinished = FOLDER / "unfinished"
        write_scenes(unfinished, 60, size=(1280, 1918), seed=5)
        unfinished.rename(SCENES)
    if not (RUN / "model.pt").is_file():
        # At half the size it is served at: the masks are good enough to compare, and nothing else hangs on them.
        options = TrainOptions(out=RUN, encoder="resnet34", sizes=((256, 256),), epochs=(10,), batch=6, rotate=0.0)
        fit(data.open(SCENES), options)
    if not BUNDLE.is_file():
        from visdeploy.export import export
        from visdeploy.precision import PrecisionOptions

        net, spec = checkpoint.load(RUN)
        described = {**spec.model_dump(), "size": SIZE}
        wanted = PrecisionOptions("auto", data.open(SCENES), engines=("openvino",))
        export(net, BUNDLE, spec=described, golden=photographs()[:2], precision=wanted)


def photographs() -> list[Path]:
    """The scenes that the run has not seen."""
    return [item.image_path for item in data.open(SCENES).val if item.image_path is not None]


if __name__ == "__main__":
    prepare()
