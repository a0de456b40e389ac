"""Generated street scenes: overlapping vehicles on textured ground, with exact masks and boxes.

Scene `index` of seed `seed` is the same picture on every machine, whatever else is drawn.
"""

import json
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from visdeploy import image
from visdeploy.data.box_formats import to_xywh
from visdeploy.data.dataset import ClassMap, Dataset, Image, Item, Objects, Sample, hold_out
from visdeploy.data.largest import largest_objects
from visdeploy.data.vehicles import DESIGNS, Camera, Color, Painter, Vehicle
from visdeploy.spec import default_palette

LABELS = ("background", "vehicle")
"""Of masks."""
KINDS = ("background", "car", "van", "truck", "bus")
"""Of boxes."""

# Drawn at this multiple of the final size, so that edges are smooth and a pixel's owner is a majority.
_OVERSAMPLING = 2
_MIN_VISIBLE = 24
_GROUND_METRES = 60.0

_SKIES = ((150, 182, 214), (196, 203, 209), (120, 160, 205), (214, 196, 178), (104, 112, 124))
_GROUNDS = ((98, 98, 101), (122, 118, 112), (150, 138, 118), (84, 98, 68), (112, 92, 78), (78, 80, 86))
_LINE = (225, 222, 205)
_PAINTS = (
    *((168, 26, 30), (28, 62, 130), (226, 226, 224), (64, 68, 76), (150, 156, 164), (206, 170, 44)),
    *((40, 104, 66), (198, 96, 32), (128, 30, 58), (104, 150, 190), (120, 92, 60), (232, 220, 190)),
)


def scenes(count: int, *, size: tuple[int, int] = (288, 384), seed: int = 0, task: str = "segmentation") -> Dataset:
    """Describe scenes that are drawn when they are loaded.

    Args:
        count: How many.
        size: Height and width.
        seed: Another seed gives other scenes.
        task: "segmentation" for masks of `LABELS`; "detection" for boxes of `KINDS`; "localization" or
            "classification" for the largest of these.
    """
    masks = task == "segmentation"
    items = [
        Item(
            f"scene{index:05}",
            load_image=partial(_load_image, index, size, seed),
            load_mask=partial(_load_mask, index, size, seed) if masks else None,
            load_objects=None if masks else partial(_load_objects, index, size, seed),
            size=size,
        )
        for index in range(count)
    ]
    train, val = hold_out(items)
    labels = LABELS if masks else KINDS
    dataset = Dataset(labels, default_palette(len(labels), 0), train, val, background=0)
    return largest_objects(dataset) if task in ("localization", "classification") else dataset


def write_scenes(folder: Path, count: int, *, size: tuple[int, int] = (288, 384), seed: int = 0) -> None:
    """Write `count` scenes as `images/`, `masks/`, `labels.txt` and COCO boxes in `boxes.json`."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        sample = draw_scene(index, size=size, seed=seed)
        image.write(folder / "images" / f"{sample.name}.jpg", sample.image)
        assert sample.mask is not None
        image.write(folder / "masks" / f"{sample.name}.png", sample.mask * np.uint8(255))
        images.append({"id": index, "file_name": f"{sample.name}.jpg", "height": size[0], "width": size[1]})
        assert sample.objects is not None
        for (x, y, w, h), label in zip(
            to_xywh(sample.objects.xyxy).tolist(), sample.objects.labels.tolist(), strict=True
        ):
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": index, "category_id": label, **box})
    categories = [{"id": label, "name": kind} for label, kind in enumerate(KINDS) if label]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(document))


def draw_scene(index: int, *, size: tuple[int, int] = (288, 384), seed: int = 0) -> Sample:
    """Draw one scene.

    Args:
        index: Which one.
        size: Height and width.
        seed: Another seed gives other scenes.

    Returns:
        The image, its (H, W) mask of 0 and 1, and a box around the visible part of each vehicle, labelled by `KINDS`.
    """
    rng = np.random.default_rng([seed, index])
    height, width = size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING
    camera = Camera(
        focal=width * rng.uniform(0.8, 1.3),
        center_x=width * rng.uniform(0.4, 0.6),
        horizon=height * rng.uniform(0.22, 0.42),
        height=rng.uniform(1.5, 3.5),
    )
    sky = np.array(_SKIES[rng.integers(len(_SKIES))], np.float64) * rng.uniform(0.85, 1.1)
    angle = rng.uniform(-2.4, 2.4)
    sun = np.array([np.sin(angle), rng.uniform(0.7, 1.6), -np.cos(angle)])
    sun /= np.linalg.norm(sun)
    backdrop = _backdrop((height, width), camera, sky, rng)
    vehicles = _park(camera, width, rng)
    backdrop *= _shadows((height, width), vehicles, camera, sun)[..., None]
    canvas = np.zeros((height, width, 4), np.uint8)
    canvas[..., :3] = np.clip(backdrop, 0, 255)
    painter = Painter(canvas, camera, sun, sky)
    for owner, vehicle in enumerate(vehicles, 1):
        painter.draw(vehicle, owner)
    pixels = cv2.resize(canvas[..., :3], (size[1], size[0]), interpolation=cv2.INTER_AREA)
    owners = _majority(canvas[..., 3], len(vehicles), size)
    boxes = _boxes(owners, len(vehicles))
    mask = np.isin(owners, list(boxes)).astype(np.uint8)
    corners = np.array(list(boxes.values()), np.float32).reshape(-1, 4)
    kinds = np.array([KINDS.index(vehicles[owner - 1].design.kind) for owner in boxes], np.int64)
    objects = Objects(corners, kinds, np.zeros(len(boxes), bool))
    return Sample(f"scene{index:05}", _expose(pixels, rng), mask, objects)


@lru_cache(maxsize=4)
def _draw_once(index: int, size: tuple[int, int], seed: int) -> Sample:
    """Spare the loading of one item's image, mask and objects two of three drawings; copy what it returns."""
    return draw_scene(index, size=size, seed=seed)


def _load_image(index: int, size: tuple[int, int], seed: int) -> Image:
    return _draw_once(index, size, seed).image.copy()


def _load_mask(index: int, size: tuple[int, int], seed: int) -> ClassMap:
    mask = _draw_once(index, size, seed).mask
    assert mask is not None
    return mask.copy()


def _load_objects(index: int, size: tuple[int, int], seed: int) -> Objects:
    objects = _draw_once(index, size, seed).objects
    assert objects is not None
    return Objects(objects.xyxy.copy(), objects.labels.copy(), objects.ignored.copy())


def _backdrop(size: tuple[int, int], camera: Camera, sky: Color, rng: np.random.Generator) -> NDArray[np.float32]:
    """Sky, a line of trees or buildings, and ground that runs to the horizon."""
    height, width = size
    horizon = int(camera.horizon)
    rise = np.linspace(0, 1, horizon, dtype=np.float32)[:, None, None]
    picture = np.empty((height, width, 3), np.float32)
    picture[:horizon] = sky.astype(np.float32) * (0.82 + 0.25 * rise) + 26 * _noise((horizon, width), 5, rng)[..., None]
    if rng.random() < 0.5:
        _draw_trees(picture, horizon, rng)
    else:
        _draw_buildings(picture, horizon, rng)
    picture[horizon:] = _ground(size, camera, rng)
    return picture


def _draw_trees(picture: NDArray[np.float32], horizon: int, rng: np.random.Generator) -> None:
    width = picture.shape[1]
    skyline = horizon * (0.45 + 0.4 * _noise((1, width), 5, rng)[0])
    leaves = np.arange(horizon)[:, None] > skyline
    color = np.array([52, 72, 42]) * rng.uniform(0.7, 1.25)
    texture = 1 + 0.6 * _noise((horizon, width), 7, rng)[..., None]
    picture[:horizon][leaves] = (color * texture)[leaves]


def _draw_buildings(picture: NDArray[np.float32], horizon: int, rng: np.random.Generator) -> None:
    left, width = 0, picture.shape[1]
    while left < width:
        right = left + int(width * rng.uniform(0.1, 0.35))
        top = int(horizon * rng.uniform(0.0, 0.6))
        color = np.array([rng.uniform(95, 190)] * 3) * rng.uniform(0.82, 1.1, 3)
        wall = picture[top:horizon, left:right]
        wall[:] = color * (0.92 + 0.2 * _noise(wall.shape[:2], 6, rng)[..., None])
        step, pane = int(rng.uniform(0.05, 0.09) * width), rng.uniform(0.4, 0.65)
        for y in range(step // 2, wall.shape[0] - step, step):
            for x in range(step // 2, wall.shape[1] - step // 2, step):
                wall[y : y + int(step * pane), x : x + int(step * pane * 0.8)] = color * rng.uniform(0.25, 0.6)
        left = right


def _ground(size: tuple[int, int], camera: Camera, rng: np.random.Generator) -> NDArray[np.float32]:
    """Texture the ground plane from above, then look at it through the camera: the rows below the horizon."""
    side = 768
    color = np.array(_GROUNDS[rng.integers(len(_GROUNDS))], np.float32) * rng.uniform(0.8, 1.2)
    # Texture and paint are one channel of brightness; colouring only what is seen takes a third of the time.
    grain = np.tile(rng.standard_normal((side // 4, side // 4), np.float32), (4, 4))
    flat = 1 + 0.35 * _noise((side, side), 8, rng) + 0.07 * grain
    if rng.random() < 0.7:
        _paint_lines(flat, rng)
    half = _GROUND_METRES / 2
    metres = np.array([[-half, 0, 3], [half, 0, 3], [half, 0, 63], [-half, 0, 63]], np.float64)
    seen = camera.project(metres).astype(np.float32)
    texture = np.array([[0, side], [side, side], [side, 0], [0, 0]], np.float32)
    look = cv2.getPerspectiveTransform(texture, seen)
    shown = cv2.warpPerspective(flat, look, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    colored = shown[int(camera.horizon) :, :, None] * color
    return np.asarray(np.minimum(colored, np.array(_LINE, np.float32)), np.float32)


def _paint_lines(flat: NDArray[np.float32], rng: np.random.Generator) -> None:
    side = flat.shape[0]
    turned = rng.random() < 0.5
    for across in np.arange(rng.uniform(0, 60), side, rng.uniform(34, 70)):
        for along in range(0, side, 64):
            ends = ((int(across), along), (int(across), along + (64 if turned else 36)))
            start, stop = ((y, x) for x, y in ends) if turned else ends
            cv2.line(flat, start, stop, 4.0, 2, cv2.LINE_AA)


def _park(camera: Camera, width: int, rng: np.random.Generator) -> list[Vehicle]:
    """Place vehicles that may hide but not pierce one another, the farthest first."""
    placed: list[Vehicle] = []
    headings = rng.choice([0.0, np.pi / 2, np.pi, -np.pi / 2]) + rng.normal(0, 0.25)
    wanted = int(rng.integers(1, 7))
    for _ in range(60):
        if len(placed) == wanted:
            break
        ahead = float(rng.uniform(8, 19))
        sideways = float(rng.uniform(-0.5, 0.5) * width / camera.focal * ahead)
        paints = [np.array(_PAINTS[rng.integers(len(_PAINTS))]) * rng.uniform(0.85, 1.1) for _ in range(2)]
        vehicle = Vehicle(
            design=DESIGNS[rng.integers(len(DESIGNS))],
            position=(sideways, ahead),
            heading=headings + float(rng.choice([0, np.pi])) + rng.normal(0, 0.2),
            paints=(paints[0], paints[1]),
            size=rng.uniform(0.92, 1.08),
        )
        corners = vehicle.corners()
        if corners[:, 2].min() < 3.5 or np.ptp(camera.project(corners)[:, 0]) > 0.85 * width:
            continue
        if not any(_touch(vehicle, other) for other in placed):
            placed.append(vehicle)
    return sorted(placed, key=lambda vehicle: -vehicle.position[1])


def _touch(vehicle: Vehicle, other: Vehicle) -> bool:
    footprints = [cv2.convexHull(each.corners()[:, [0, 2]].astype(np.float32)) for each in (vehicle, other)]
    return bool(cv2.intersectConvexConvex(footprints[0], footprints[1])[0] > 0)


def _shadows(
    size: tuple[int, int], vehicles: list[Vehicle], camera: Camera, sun: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Brightness of the ground: dark where a vehicle keeps the sun out, darkest right under it."""
    light = np.ones(size, np.float32)
    for vehicle in vehicles:
        corners = vehicle.corners()
        for reach, depth in ((1.0, 0.58), (0.06, 0.55)):
            thrown = corners - sun * (corners[:, 1:2] / sun[1]) * reach
            thrown[:, 1] = 0
            pixels = np.rint(camera.project(thrown)).astype(np.int32)
            shade = np.ones(size, np.float32)
            cv2.fillConvexPoly(shade, cv2.convexHull(pixels), depth)
            light = np.minimum(light, shade) if reach == 1.0 else light * shade
    blurred = cv2.GaussianBlur(light, (0, 0), size[0] / 180)
    return np.asarray(blurred, np.float32)


def _majority(owners: NDArray[np.uint8], count: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Give each final pixel to whoever owns most of it."""
    shares = [
        cv2.resize(np.uint8(255) * (owners == owner), (size[1], size[0]), interpolation=cv2.INTER_AREA)
        for owner in range(count + 1)
    ]
    return np.asarray(np.argmax(shares, axis=0), np.uint8)


def _boxes(owners: NDArray[np.uint8], count: int) -> dict[int, tuple[int, int, int, int]]:
    """Frame what is seen of each vehicle, except slivers that nobody could call a vehicle."""
    found = {}
    for owner in range(1, count + 1):
        rows, columns = np.nonzero(owners == owner)
        if len(rows) >= _MIN_VISIBLE:
            found[owner] = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return found


def _expose(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add what a lens and a sensor add: a gradient of light, softness, a colour cast, noise."""
    height, width = pixels.shape[:2]
    slope = rng.uniform(-0.18, 0.18, 2)
    light = 1 + slope[0] * np.linspace(-1, 1, height)[:, None] + slope[1] * np.linspace(-1, 1, width)
    soft = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 0.8))
    gain = (light * rng.uniform(0.82, 1.15)).astype(np.float32)[..., None]
    exposed = soft * gain * rng.uniform(0.95, 1.05, 3).astype(np.float32)
    exposed += np.float32(rng.uniform(2, 6)) * rng.standard_normal(pixels.shape, np.float32)
    return np.asarray(np.clip(exposed, 0, 255), np.uint8)


def _noise(size: tuple[int, int], octaves: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(H, W) smooth noise around 0 with detail at every scale, within about [-1, 1]."""
    total = np.zeros((1, 1), np.float32)
    for octave in range(1, octaves + 1):
        total = cv2.resize(total, (2**octave, 2**octave), interpolation=cv2.INTER_CUBIC)
        total += rng.uniform(-1, 1, total.shape).astype(np.float32) * 0.62**octave
    return np.asarray(cv2.resize(total, size[::-1], interpolation=cv2.INTER_CUBIC))
