"""What happens to photographs: fast.ai's "crappify", of which restoration undoes what can be undone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from visdeploy.errors import InputError

_HOW = "scale=2, jpeg=20,70, text, gray or holes"
# A crop and a whole photograph shall be hurt alike: so much area has one text, or one hole, of sizes in pixels.
_AREA = 128 * 128
_TEXT_HEIGHT = (8, 33)
_HOLE_SIDE = (6, 33)
_HOLE = (255, 255, 255)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Degrade:
    """Makes of a picture one to restore; what is chosen happens in the order of the attributes.

    All is drawn by lot from the seed, with the same result on every machine of one OpenCV version.

    Attributes:
        scale: Height and width are divided by it; a remainder of pixels right and bottom is cut off. A pixel is the
            mean of the square it came from (OpenCV's INTER_AREA), much as cameras and web pages make small pictures.
        holes: Rectangles and strokes are painted over in white.
        text: Words and numbers are written over it, in any size, place and colour.
        gray: All three channels become its luma.
        jpeg: The lowest and highest quality, 1 to 100, that it is stored in as JPEG; None leaves that out.

    Raises:
        InputError: An argument is wrong, or nothing at all is chosen.

    Example:
        >>> Degrade(scale=2, jpeg=(20, 70))(np.zeros((65, 48, 3), np.uint8), seed=0).shape
        (32, 24, 3)
    """

    scale: int = 1
    jpeg: tuple[int, int] | None = None
    text: bool = False
    gray: bool = False
    holes: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if not _whole(self.scale) or not 1 <= self.scale <= 8:
            raise InputError(f"[degrade] scale: expected a whole number from 1 to 8, got {self.scale!r}")
        for name in ("text", "gray", "holes"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"[degrade] {name}: expected True or False, got {getattr(self, name)!r}")
        if self.jpeg is not None:
            bounds = self.jpeg if isinstance(self.jpeg, Sequence) else ()
            if len(bounds) != 2 or not all(map(_whole, bounds)) or not 1 <= bounds[0] <= bounds[1] <= 100:
                raise InputError(
                    f"[degrade] jpeg: expected the lowest quality, then the highest, each 1 to 100, got {self.jpeg!r}"
                )
        if self.scale == 1 and not (self.jpeg or self.text or self.gray or self.holes):
            raise InputError(f"[degrade] expected something to do to pictures ({_HOW}), got nothing")

    @classmethod
    def parse(cls, parts: Sequence[str]) -> "Degrade":
        """Read the parts of a command line: "scale=2", "jpeg=20,70" or "jpeg=30", "text", "gray", "holes".

        Raises:
            InputError: A part is unknown, given twice, or has a wrong value.
        """
        found: dict[str, Any] = {}
        for part in parts:
            name, _, value = part.partition("=")
            takes_value = name in ("scale", "jpeg")
            numbers = [int(text) for text in value.split(",") if text.isascii() and text.isdecimal() and len(text) < 4]
            wrong_value = len(numbers) != len(value.split(",")) or len(numbers) > (1 if name == "scale" else 2)
            if name not in cls.__dataclass_fields__ or (wrong_value if takes_value else part != name):
                raise InputError(f"--degrade: expected {_HOW}, got {part!r}")
            if name in found:
                raise InputError(f"--degrade: expected {name} once, got it twice")
            found[name] = True if not takes_value else numbers[0] if name == "scale" else (numbers[0], numbers[-1])
        return cls(**found)

    def __call__(self, picture: Picture, seed: int) -> Picture:
        """Return a worse picture.

        Args:
            picture: (H, W, 3) uint8 RGB.
            seed: Decides all that is drawn by lot; not negative.

        Returns:
            (H // scale, W // scale, 3) uint8 RGB, C-contiguous; never the picture itself.

        Raises:
            InputError: The picture is smaller than `scale`, or no RGB picture; or the seed is no whole number from 0.
        """
        if not _whole(seed) or seed < 0:
            raise InputError(f"[degrade] seed: expected a whole number from 0, got {seed!r}")
        picture = np.asarray(picture)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise InputError(f"[degrade] picture: expected uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
        if min(picture.shape[:2]) < self.scale:
            raise InputError(
                f"[degrade] picture: expected at least {self.scale}x{self.scale} pixels for scale {self.scale}, "
                f"got {picture.shape[1]}x{picture.shape[0]} (width x height)"
            )
        random = np.random.default_rng(seed)
        worse = _shrink(picture, self.scale)
        if self.holes:
            _tear(worse, random)
        if self.text:
            _write(worse, random)
        if self.gray:
            worse = cast(Picture, cv2.cvtColor(cv2.cvtColor(worse, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
        if self.jpeg:
            worse = _compress(worse, int(random.integers(self.jpeg[0], self.jpeg[1] + 1)))
        return worse


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _shrink(picture: Picture, scale: int) -> Picture:
    """Return a copy in which each pixel is the mean of a square; in whole numbers, as SIMD variants round apart."""
    if scale == 1:
        return np.array(picture, order="C")
    height, width = (side // scale for side in picture.shape[:2])
    total = np.full((height, width, 3), scale * scale // 2, np.uint16)
    for row in range(scale):
        for column in range(scale):
            total += picture[row : height * scale : scale, column : width * scale : scale]
    return (total // (scale * scale)).astype(np.uint8)


def _tear(picture: Picture, random: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    for _ in range(_count(picture)):
        x, y = random.integers(width), random.integers(height)
        if random.random() < 0.5:
            tall, wide = random.integers(*_HOLE_SIDE, 2)
            top, left = max(0, y - tall // 2), max(0, x - wide // 2)
            picture[top : top + tall, left : left + wide] = _HOLE
        else:
            # A scratch: a few straight pieces, each going on where the last one ended.
            steps = random.integers(-_HOLE_SIDE[1], _HOLE_SIDE[1], (4, 2))
            points = np.cumsum([(x, y), *steps], axis=0).astype(np.int32)
            cv2.polylines(picture, [points], False, _HOLE, int(random.integers(1, 5)))


def _write(picture: Picture, random: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    for _ in range(_count(picture)):
        if random.random() < 0.5:
            text = str(random.integers(10_000))
        else:
            text = "".join(_LETTERS[index] for index in random.integers(len(_LETTERS), size=random.integers(2, 9)))
        font = _FONTS[random.integers(len(_FONTS))]
        tall = int(random.integers(*_TEXT_HEIGHT))
        thickness = 1 + tall // 16
        scale = cv2.getFontScaleFromHeight(font, tall, thickness)
        wide = cv2.getTextSize(text, font, scale, thickness)[0][0]
        # Its middle lies in the picture, so that some of it always shows and edges are written on as well.
        left, bottom = random.integers(width) - wide // 2, random.integers(height) + tall // 2
        colour = random.integers(256, size=3).tolist()
        cv2.putText(picture, text, (int(left), int(bottom)), font, scale, colour, thickness, cv2.LINE_AA)


def _count(picture: Picture) -> int:
    return max(1, round(picture[..., 0].size / _AREA))


def _compress(picture: Picture, quality: int) -> Picture:
    stored = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cast(Picture, cv2.imdecode(stored, cv2.IMREAD_COLOR_RGB))
