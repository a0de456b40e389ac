"""Vehicles for generated scenes: side outlines in metres, extruded, lit and drawn in perspective.

A vehicle's own axes are x forward from its rear bumper, y up from the ground, z to its left from the middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Color = NDArray[np.float64]
Outline = tuple[tuple[float, float], ...]

_GLASS = np.array([38.0, 46.0, 54.0])
_RUBBER = np.array([24.0, 24.0, 26.0])
_METAL = np.array([172.0, 174.0, 178.0])
_DARK = np.array([30.0, 31.0, 33.0])
_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 25)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 25)[:-1])], axis=1)


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera over the ground, in pixels of the canvas that is drawn on."""

    focal: float
    center_x: float
    horizon: float
    height: float

    def project(self, points: Points) -> Points:
        """(N, 3) metres to the right, up and ahead -> (N, 2) pixels."""
        scale = self.focal / np.maximum(points[:, 2], 0.5)
        return np.stack(
            [self.center_x + points[:, 0] * scale, self.horizon + (self.height - points[:, 1]) * scale], axis=1
        )


@dataclass(frozen=True)
class Body:
    """One extruded outline. `glass` lists its edges that are windows, `windows` the panes on its sides."""

    outline: Outline
    half_width: float
    glass: tuple[int, ...] = ()
    windows: tuple[Outline, ...] = ()
    belt: float = 1.0
    taper: float = 0.0
    paint: int = 0
    has_lamps: bool = False


@dataclass(frozen=True)
class Design:
    """The bodies and wheels that make up one model of vehicle, and the kind that people call it."""

    kind: str
    bodies: tuple[Body, ...]
    axles: tuple[float, ...]
    wheel_radius: float

    @property
    def length(self) -> float:
        """Metres from bumper to bumper."""
        return max(x for body in self.bodies for x, _ in body.outline)


@dataclass(frozen=True)
class Vehicle:
    """A design, painted and standing on the ground at `position` (right, ahead) of the camera."""

    design: Design
    position: tuple[float, float]
    heading: float
    paints: tuple[Color, Color]
    size: float = 1.0
    _axes: Points = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        object.__setattr__(self, "_axes", np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]))

    def place(self, points: Points) -> Points:
        """Own axes -> metres to the right, up and ahead of the camera."""
        centred = points - [self.design.length / 2, 0, 0]
        return centred * self.size @ self._axes + [self.position[0], 0, self.position[1]]

    def direction(self, vector: Sequence[float]) -> Points:
        """Turn a direction in own axes to the camera's."""
        return np.asarray(vector, np.float64) @ self._axes

    def corners(self) -> Points:
        """(N, 3) outline points of both sides, in the camera's axes."""
        return np.concatenate(
            [self.place(_sides(body, np.array(body.outline), side)) for body in self.design.bodies for side in (-1, 1)]
        )


def _panes(start: float, stop: float, count: int, low: float, high: float, gap: float = 0.09) -> tuple[Outline, ...]:
    edges = np.linspace(start, stop, count + 1)
    return tuple(((a, low), (a, high), (b - gap, high), (b - gap, low)) for a, b in pairwise(edges.tolist()))


_SEDAN = Body(
    outline=(
        *((0.03, 0.27), (0.0, 0.62), (0.08, 0.98), (0.75, 1.02), (1.45, 1.42)),
        *((2.55, 1.45), (3.4, 0.98), (4.3, 0.8), (4.5, 0.6), (4.46, 0.25)),
    ),
    half_width=0.89,
    glass=(3, 5),
    windows=(
        ((2.5, 1.37), (2.12, 1.38), (2.08, 1.0), (3.12, 0.99)),
        ((2.02, 1.38), (1.55, 1.36), (1.02, 1.02), (1.98, 1.0)),
    ),
    taper=0.18,
    has_lamps=True,
)
_HATCHBACK = Body(
    outline=(
        *((0.05, 0.28), (0.0, 0.65), (0.1, 1.0), (0.5, 1.43), (0.85, 1.52)),
        *((2.15, 1.5), (3.05, 1.0), (3.8, 0.85), (4.0, 0.62), (3.96, 0.25)),
    ),
    half_width=0.87,
    glass=(2, 5),
    windows=(
        ((2.1, 1.41), (1.68, 1.42), (1.62, 1.02), (2.78, 1.01)),
        ((1.58, 1.42), (0.82, 1.41), (0.52, 1.06), (1.52, 1.02)),
    ),
    taper=0.16,
    has_lamps=True,
)
_SUV = Body(
    outline=(
        *((0.05, 0.38), (0.0, 0.8), (0.1, 1.15), (0.38, 1.66), (0.7, 1.78)),
        *((2.65, 1.76), (3.4, 1.2), (4.45, 1.08), (4.7, 0.85), (4.66, 0.36)),
    ),
    half_width=0.95,
    glass=(2, 5),
    windows=(
        ((2.6, 1.67), (2.0, 1.68), (1.98, 1.22), (3.16, 1.2)),
        ((1.9, 1.68), (1.15, 1.68), (1.15, 1.22), (1.88, 1.22)),
        ((1.05, 1.68), (0.66, 1.66), (0.42, 1.28), (1.05, 1.22)),
    ),
    belt=1.18,
    taper=0.14,
    has_lamps=True,
)
_VAN = Body(
    outline=(
        *((0.03, 0.35), (0.0, 1.25), (0.1, 2.0), (0.3, 2.12), (3.45, 2.1)),
        *((4.5, 1.3), (5.08, 1.06), (5.2, 0.75), (5.16, 0.32)),
    ),
    half_width=0.99,
    glass=(1, 4),
    windows=(((3.4, 1.93), (2.8, 1.93), (2.8, 1.34), (4.2, 1.32)),),
    belt=1.3,
    taper=0.1,
    has_lamps=True,
)
_MINIBUS = Body(
    outline=_VAN.outline,
    half_width=_VAN.half_width,
    glass=_VAN.glass,
    windows=(*_VAN.windows, *_panes(0.3, 2.78, 2, 1.34, 1.93)),
    belt=_VAN.belt,
    taper=_VAN.taper,
    has_lamps=True,
)
_CHASSIS = Body(outline=((0.0, 0.5), (0.0, 0.95), (6.6, 0.95), (6.6, 0.5)), half_width=0.85, paint=2)
_BOX = Body(outline=((0.0, 0.98), (0.0, 3.1), (5.15, 3.1), (5.15, 0.98)), half_width=1.18, paint=1)
_CAB = Body(
    outline=(
        *((5.3, 0.45), (5.3, 2.35), (5.55, 2.52), (6.55, 2.5)),
        *((7.0, 1.5), (7.2, 1.25), (7.25, 0.45)),
    ),
    half_width=1.08,
    glass=(3,),
    windows=(((6.5, 2.3), (5.75, 2.32), (5.75, 1.55), (6.82, 1.52)),),
    belt=1.5,
    taper=0.08,
    has_lamps=True,
)
_BUS = Body(
    outline=(
        *((0.05, 0.4), (0.0, 1.25), (0.08, 2.75), (0.3, 3.0), (9.55, 3.0)),
        *((9.86, 2.75), (10.0, 1.2), (9.97, 0.38)),
    ),
    half_width=1.24,
    glass=(1, 5),
    windows=_panes(0.35, 9.75, 7, 1.4, 2.5),
    belt=1.3,
    taper=0.04,
    has_lamps=True,
)

DESIGNS = (
    Design("car", (_SEDAN,), (0.85, 3.6), 0.33),
    Design("car", (_HATCHBACK,), (0.7, 3.2), 0.32),
    Design("car", (_SUV,), (0.9, 3.75), 0.39),
    Design("van", (_VAN,), (0.95, 4.2), 0.37),
    Design("van", (_MINIBUS,), (0.95, 4.2), 0.37),
    Design("truck", (_CHASSIS, _BOX, _CAB), (1.2, 6.2), 0.5),
    Design("bus", (_BUS,), (2.3, 7.9), 0.52),
)


class Painter:
    """Draws vehicles on a canvas whose fourth channel records which vehicle owns a pixel.

    Args:
        canvas: (H, W, 4) uint8, RGB and owner, drawn in place.
        camera: In pixels of the canvas.
        sun: Unit vector towards the light.
        sky: RGB that glass and upward faces reflect.
    """

    def __init__(self, canvas: NDArray[np.uint8], camera: Camera, sun: Points, sky: Color) -> None:
        self._canvas = canvas
        self._camera = camera
        self._sun = sun
        self._sky = sky

    def draw(self, vehicle: Vehicle, owner: int) -> None:
        """Draw one vehicle over what is there; call from far to near."""
        self._vehicle, self._owner = vehicle, owner
        bodies = sorted(vehicle.design.bodies, key=self._distance, reverse=True)
        near_side = self._near_side(bodies[0])
        for side in (-1, 1):
            if side != near_side:
                self._wheels(side)
        for body in bodies:
            self._body(body)
        if near_side:
            self._wheels(near_side)

    def _distance(self, body: Body) -> float:
        middle = np.array([[np.mean([x for x, _ in body.outline]), 0, 0]])
        return float(np.linalg.norm(self._vehicle.place(middle)))

    def _near_side(self, body: Body) -> int:
        """1 where the left side is seen, -1 for the right, 0 where neither is."""
        for side in (1, -1):
            point = self._vehicle.place(np.array([[self._vehicle.design.length / 2, 0, side * body.half_width]]))[0]
            if self._vehicle.direction((0, 0, side)) @ point < 0:
                return side
        return 0

    def _faces_camera(self, normal: Points, point: Points) -> bool:
        return bool(normal @ (point - [0, self._camera.height, 0]) < 0)

    def _fill(self, points: Points, color: Color) -> None:
        pixels = np.rint(self._camera.project(self._vehicle.place(points)) * 16).astype(np.int32)
        self._fill_pixels(pixels, color)

    def _fill_pixels(self, pixels: NDArray[np.int32], color: Color) -> None:
        cv2.fillPoly(self._canvas, [pixels], (*np.clip(color, 0, 255).tolist(), self._owner), cv2.LINE_8, 4)

    def _lit(self, color: Color, normal: Points) -> Color:
        lambert = max(0.0, float(normal @ self._sun))
        upward = float(normal[1])
        return color * (0.48 + 0.1 * upward + 0.55 * lambert) + self._sky * 0.16 * max(0.0, upward) ** 2

    def _glass(self, normal: Points) -> Color:
        return _GLASS + self._sky * (0.12 + 0.35 * max(0.0, float(normal[1])))

    def _body(self, body: Body) -> None:
        paint = (*self._vehicle.paints, _DARK)[body.paint]
        outline, glass = _bevel(np.array(body.outline), body.glass)
        self._strips(body, outline, glass, paint)
        if body.has_lamps:
            for end in (-1, 1):
                self._lamps(body, end, paint)
        side = self._near_side(body)
        if side:
            self._side(body, outline, side, paint)

    def _strips(self, body: Body, outline: Points, glass: NDArray[np.bool_], paint: Color) -> None:
        """The surfaces between the two sides, from bumper over roof to bumper."""
        left, right = _sides(body, outline, 1), _sides(body, outline, -1)
        quads = np.stack([left, np.roll(left, -1, 0), np.roll(right, -1, 0), right], axis=1)
        placed = self._vehicle.place(quads.reshape(-1, 3)).reshape(quads.shape)
        edges = np.roll(outline, -1, 0) - outline
        for index in np.argsort(-np.linalg.norm(placed.mean(1), axis=1)):
            dx, dy = edges[index] / np.linalg.norm(edges[index])
            normal = self._vehicle.direction((-dy, dx, 0))
            if not self._faces_camera(normal, placed[index].mean(0)):
                continue
            self._fill(quads[index], self._lit(paint, normal))
            if glass[index]:
                self._fill(_inset(quads[index], 0.1), self._glass(normal))

    def _side(self, body: Body, outline: Points, side: int, paint: Color) -> None:
        normal = self._vehicle.direction((0, 0, side))
        color = self._lit(paint, normal)
        points = _sides(body, outline, side)
        low, high = outline[:, 1].min(), outline[:, 1].max()
        self._fill(points, color * 1.06 + self._sky * 0.05)
        # Paint reflects sky above its widest line and the road below, which reads as a falling gradient.
        for level in (0.85, 0.7, 0.58, 0.45, 0.3, 0.15):
            band = _sides(
                body, np.stack([outline[:, 0], np.minimum(outline[:, 1], low + level * (high - low))], 1), side
            )
            self._fill(band, color * (0.7 + 0.4 * level))
        for axle in self._vehicle.design.axles:
            if outline[:, 0].min() < axle < outline[:, 0].max():
                arch = _CIRCLE * self._vehicle.design.wheel_radius * 1.2 + [axle, self._vehicle.design.wheel_radius]
                arch[:, 1] = np.maximum(arch[:, 1], low)
                self._fill(_sides(body, arch, side), _DARK * 0.6)
        for window in body.windows:
            pane = np.array(window)
            self._fill(_sides(body, pane, side), self._glass(normal))
            pane[:, 1] = np.maximum(pane[:, 1], pane[:, 1].mean())
            self._fill(_sides(body, pane, side), self._glass(normal) + self._sky * 0.1)

    def _lamps(self, body: Body, end: int, paint: Color) -> None:
        normal = self._vehicle.direction((end, 0, 0))
        outline = np.array(body.outline)
        # Outlines begin at the foot of the rear and end at the foot of the front; both ends reach this low.
        low, belt = max(outline[0, 1], outline[-1, 1]), body.belt
        tip = outline[:, 0].max() if end > 0 else outline[:, 0].min()
        if not self._faces_camera(normal, self._vehicle.place(np.array([[tip, belt / 2, 0]]))[0]):
            return
        lamp = np.array([246.0, 244.0, 226.0]) if end > 0 else np.array([186.0, 22.0, 24.0])
        height = belt - low

        def panel(bottom: float, top: float, start: float, stop: float, color: Color) -> None:
            levels = low + height * np.array([bottom, top, top, bottom])
            across = np.array([start, start, stop, stop]) * body.half_width * 0.9
            along = [_end_at(outline, level, end) + 0.01 * end for level in levels]
            self._fill(np.stack([np.array(along), levels, across], axis=1), color)

        panel(0.0, 0.16, -0.95, 0.95, self._lit(_DARK, normal))
        if end > 0:
            panel(0.3, 0.56, -0.5, 0.5, self._lit(_DARK, normal))
        panel(0.2, 0.36, -0.26, 0.26, self._lit(np.array([225.0, 226.0, 222.0]), normal))
        for side in (-1, 1):
            panel(0.5, 0.74, side * 0.62, side * 0.97, lamp)

    def _wheels(self, side: int) -> None:
        for axle in self._vehicle.design.axles:
            self._wheel(axle, side)

    def _wheel(self, axle: float, side: int) -> None:
        design = self._vehicle.design
        outer = max(body.half_width for body in design.bodies) * 0.99
        circle = _CIRCLE * design.wheel_radius + [axle, design.wheel_radius]
        faces = [np.insert(circle, 2, side * depth, axis=1) for depth in (outer, outer - 0.24)]
        pixels = self._camera.project(self._vehicle.place(np.concatenate(faces)))
        hull = cv2.convexHull(np.rint(pixels * 16).astype(np.int32))
        self._fill_pixels(hull, _RUBBER)
        rim = self._lit(_METAL, self._vehicle.direction((0, 0, side)))
        for radius, color in ((0.66, rim), (0.52, rim * 0.45), (0.2, rim)):
            ring = _CIRCLE * design.wheel_radius * radius + [axle, design.wheel_radius]
            self._fill(np.insert(ring, 2, side * outer, axis=1), color)


def _sides(body: Body, points: Points, side: int) -> Points:
    """Lift (N, 2) side-view points to the left (1) or right (-1) side, narrower at roof and bumpers."""
    outline = np.array(body.outline)
    top, front, rear = outline[:, 1].max(), outline[:, 0].max(), outline[:, 0].min()
    above = np.clip((points[:, 1] - body.belt) / max(top - body.belt, 0.1), 0, 1)
    to_end = np.minimum(points[:, 0] - rear, front - points[:, 0])
    rounding = 0.1 * np.clip(1 - to_end / 0.5, 0, 1) ** 2 if body.taper else 0.0
    return np.column_stack([points, side * body.half_width * (1 - body.taper * above - rounding)])


def _bevel(outline: Points, glass: Sequence[int]) -> tuple[Points, NDArray[np.bool_]]:
    """Cut every corner off, so that light turns around it in two steps; an edge's glass stays with its middle."""
    ahead = np.roll(outline, -1, 0) - outline
    cut = np.minimum(0.07, np.linalg.norm(ahead, axis=1) / 4)[:, None] * ahead / np.linalg.norm(ahead, axis=1)[:, None]
    points = np.stack([outline + cut, np.roll(outline, -1, 0) - cut], axis=1).reshape(-1, 2)
    is_glass = np.zeros(len(points), np.bool_)
    is_glass[[2 * edge for edge in glass]] = True
    return points, is_glass


def _inset(quad: Points, margin: float) -> Points:
    return np.asarray(quad + (quad.mean(0) - quad) * margin)


def _end_at(outline: Points, level: float, end: int) -> float:
    """The x at which the outline ends, forwards (1) or backwards (-1), at a height."""
    following = np.roll(outline, -1, 0)
    rises = following[:, 1] - outline[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (level - outline[:, 1]) / rises
    crossed = (share >= 0) & (share <= 1)
    ends = outline[crossed, 0] + share[crossed] * (following[crossed, 0] - outline[crossed, 0])
    return float(end * np.max(end * ends))
