"""Draws synthetic chest CT in Hounsfield units. A patient has a seed, and can be cut at any height.

Shapes are implicit functions in millimetres, so all cuts of a patient fit together. Irregular things (vessels, the
outline of lesions, texture) come from smooth random fields. These are small random grids, which are interpolated along
z, and then along each axis with one matrix product. So NumPy draws a slice in a few milliseconds.

x runs to the patient's left, y to the back, and z from the apex of the lungs (0) to their base (1).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

FIELD_OF_VIEW_MM = 360.0
LUNG_HEIGHT_MM = 240.0
AIR, FAT, MUSCLE, BLOOD = -1000.0, -100.0, 50.0, 40.0


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid of disease: its place, its size (mm), its ground glass, and how much of it is consolidated."""

    x: float
    y: float
    z: float
    radius: float
    stretch: float
    added_hu: float
    consolidated: float


@dataclass(frozen=True)
class Patient:
    """The properties of one synthetic patient. `positive`: the patient has `lesions`."""

    seed: tuple[int, int]
    positive: bool
    half_width: float
    half_depth: float
    fat_mm: float
    lung_hu: float
    dependent_hu: float
    vessel_mm: float
    noise_hu: float
    blur_px: float
    motion_mm: float
    effusion_mm: float
    tilt_mm: float
    emphysema: float
    nodules: tuple[tuple[float, float, float, float], ...]
    lesions: tuple[Lesion, ...]


def make_patient(seed: int, index: int, positive: bool) -> Patient:
    """Draw patient `index` of the population `seed`.

    Size, lung density, noise, motion, effusion, nodules and emphysema have the same distribution in both classes. Only
    the lesions differ.
    """
    rng = np.random.default_rng([seed, index])
    half_width, half_depth = rng.uniform(140, 168), rng.uniform(95, 122)
    nodules = tuple(
        (rng.choice([-1, 1]) * rng.uniform(45, 95), rng.uniform(-50, 50), rng.uniform(0.15, 0.85), rng.uniform(3, 11))
        for _ in range(rng.integers(0, 7))
    )
    patient = Patient(
        seed=(seed, index),
        positive=positive,
        half_width=half_width,
        half_depth=half_depth,
        fat_mm=rng.uniform(6, 24),
        lung_hu=rng.uniform(-880, -800),
        dependent_hu=rng.uniform(0, 60),
        vessel_mm=rng.uniform(0.7, 1.3),
        noise_hu=rng.uniform(12, 45),
        blur_px=rng.uniform(0.3, 0.9),
        motion_mm=rng.uniform(2, 7) if rng.random() < 0.1 else 0.0,
        effusion_mm=rng.uniform(8, 30) if rng.random() < 0.1 else 0.0,
        tilt_mm=rng.uniform(-8, 8),
        emphysema=rng.uniform(0.2, 0.8) if rng.random() < 0.15 else 0.0,
        nodules=nodules,
        lesions=(),
    )
    # Lesions are drawn last, so that the anatomy is the same whether or not the patient is ill.
    lesions = tuple(_lesion(rng, patient) for _ in range(rng.integers(10, 21))) if positive else ()
    return Patient(**{**patient.__dict__, "lesions": lesions})


def _lesion(rng: np.random.Generator, patient: Patient) -> Lesion:
    """Draw a lesion. COVID-19 pneumonia is mostly peripheral, posterior and on both sides (Salehi et al., AJR 2020)."""
    side = rng.choice([-1, 1])
    angle = np.deg2rad(rng.normal(25, 40))  # 0: lateral, 90: posterior
    reach = rng.uniform(0.55, 1.05)
    return Lesion(
        x=side * (0.47 * patient.half_width + reach * 0.30 * patient.half_width * np.cos(angle)),
        y=reach * 0.62 * patient.half_depth * np.sin(angle),
        z=float(np.clip(rng.normal(0.58, 0.22), 0.1, 0.95)),
        radius=rng.uniform(20, 44),
        stretch=rng.uniform(0.7, 1.6),
        added_hu=rng.uniform(300, 520),
        consolidated=rng.uniform(0, 0.6) if rng.random() < 0.4 else 0.0,
    )


@lru_cache(maxsize=256)
def _interpolation(size: int, knots: int) -> Field:
    """Return the matrix `[size, knots]` that interpolates `knots` values to `size` pixels, eased by a cosine."""
    at = np.linspace(0, knots - 1, size)
    low = np.clip(np.floor(at).astype(int), 0, knots - 2)
    part = at - low
    part = part * part * (3 - 2 * part)
    matrix = np.zeros((size, knots), np.float32)
    rows = np.arange(size)
    matrix[rows, low] = 1 - part
    matrix[rows, low + 1] = part
    return matrix


@lru_cache(maxsize=256)
def _blur(size: int, sigma: float) -> Field:
    """Return the matrix `[size, size]` of a Gaussian of `sigma` pixels along one axis. Its rows sum to 1."""
    offset = np.arange(size)[:, None] - np.arange(size)[None, :]
    matrix = np.exp(-0.5 * (offset / max(sigma, 1e-3)) ** 2)
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True), np.float32)


class PhantomSlice:
    """Draws one axial cut of `patient` at height `z`, step by step."""

    def __init__(self, patient: Patient, z: float, size: int) -> None:
        self.patient, self.z, self.size = patient, z, size
        self.pixel_mm = FIELD_OF_VIEW_MM / size
        axis = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) * np.float32(FIELD_OF_VIEW_MM)
        self.x, self.y = axis[None, :], axis[:, None]
        self.lung = self._lung()
        self.outlines = self._outlines()

    def field(self, salt: int, scale_mm: float) -> Field:
        """Return a smooth random field of unit variance, continuous along z. Its details measure `scale_mm`."""
        knots = max(3, int(FIELD_OF_VIEW_MM / scale_mm))
        step_mm = 2 * scale_mm
        at = self.z * LUNG_HEIGHT_MM / step_mm
        layer, part = int(np.floor(at)), at - np.floor(at)
        below, above = (
            np.random.default_rng([*self.patient.seed, salt, layer + i]).standard_normal((knots, knots), np.float32)
            for i in (0, 1)
        )
        grid = np.float32(np.cos(part * np.pi / 2)) * below + np.float32(np.sin(part * np.pi / 2)) * above
        matrix = _interpolation(self.size, knots)
        return np.asarray(matrix @ grid @ matrix.T * np.float32(1.3), np.float32)

    def cover(self, inside_mm: Any) -> Field:
        """Return how much of each pixel is inside a shape. `inside_mm`: the distance to its edge, positive inside."""
        return np.asarray(np.clip(inside_mm / np.float32(self.pixel_mm) + np.float32(0.5), 0, 1), np.float32)

    def ellipse(self, x: float, y: float, a: float, b: float) -> Field:
        """Approximate the distance (mm, positive inside) to the edge of an ellipse with half axes a and b."""
        r = np.sqrt(((self.x - np.float32(x)) / np.float32(a)) ** 2 + ((self.y - np.float32(y)) / np.float32(b)) ** 2)
        return np.asarray((1 - r) * np.float32(min(a, b)), np.float32)

    def _lung(self) -> Field:
        """Draw both lungs, which are narrow at the apex. Leave out mediastinum, heart and, at the base, diaphragm."""
        p, z = self.patient, self.z
        grown = float(np.sqrt(max(0.02, 1 - (1 - min(z / 0.4, 1.0)) ** 2)))
        a, b = 0.335 * p.half_width * grown, 0.70 * p.half_depth * (0.35 + 0.65 * grown)
        wobble = 2.5 * self.field(1, 40)
        lungs = np.maximum(
            self.ellipse(-0.47 * p.half_width, p.tilt_mm, a * 1.05, b),
            self.ellipse(0.47 * p.half_width, p.tilt_mm, a, b),
        )
        lungs = np.minimum(lungs + wobble, -self.ellipse(0, 0, 30, 0.8 * p.half_depth))
        heart = float(np.interp(z, [0.35, 0.6, 0.9, 1.0], [0.0, 1.0, 1.0, 0.8]))
        if heart > 0:
            lungs = np.minimum(lungs, -self.ellipse(22, -22, 62 * heart + 1, 46 * heart + 1))
        dome = float(np.interp(z, [0.72, 1.0], [0.0, 1.0]))
        if dome > 0:
            for x, scale in ((-0.42, 1.0), (0.42, max(dome - 0.15, 0.02))):
                lungs = np.minimum(
                    lungs,
                    -self.ellipse(
                        x * p.half_width,
                        -14,
                        0.42 * p.half_width * scale * dome**0.5 + 1,
                        0.72 * p.half_depth * scale * dome**0.5 + 1,
                    ),
                )
        return self.cover(lungs)

    def disease(self) -> Field:
        """Return how much of each pixel is diseased lung, float32[size,size] in [0,1]. This decides the label."""
        if not self.outlines:
            return np.zeros((self.size, self.size), np.float32)
        inside = np.max([np.clip(edge / np.float32(7), 0, 1) for _, edge in self.outlines], axis=0)
        return np.asarray(inside * self.lung, np.float32)

    def draw(self) -> Field:
        """Return the slice in HU, float32[size,size], as a scanner would record it."""
        hu = self._body()
        tissue = self._lung_tissue()
        hu += self.lung * (tissue - hu)
        return self._scan(hu)

    def _body(self) -> Field:
        p = self.patient
        body = self.ellipse(0, 0, p.half_width, p.half_depth) + 1.5 * self.field(2, 60)
        hu = AIR + self.cover(body) * np.float32(FAT - AIR)
        inner = body - np.float32(p.fat_mm)
        hu += self.cover(inner) * np.float32(MUSCLE - FAT)
        hu += 12 * self.field(3, 12) * self.cover(inner)
        angle = np.arctan2(self.y / np.float32(p.half_depth), self.x / np.float32(p.half_width))
        ribs = np.cos(11 * angle + np.float32(9 * self.z)) - np.float32(0.35)
        band = self.cover(np.float32(4.5) - np.abs(inner - 9))
        hu += band * np.clip(4 * ribs, 0, 1) * np.float32(380)
        spine_y = 0.72 * p.half_depth
        vertebra = self.ellipse(0, spine_y, 17, 14)
        hu += self.cover(vertebra) * np.float32(190) + self.cover(2.5 - np.abs(vertebra)) * np.float32(320)
        hu -= self.cover(self.ellipse(0, spine_y + 20, 8, 7)) * np.float32(40)
        hu += self.cover(self.ellipse(0, spine_y + 34, 3, 10)) * np.float32(400)
        hu += self.cover(self.ellipse(0, -0.86 * p.half_depth, 16, 5)) * np.float32(300)
        if self.z < 0.45:
            trachea = self.cover(self.ellipse(0, 10, 8, 9))
            hu += trachea * (np.float32(AIR) - hu)
        table = self.cover(3 - np.abs(self.y - np.float32(p.half_depth + 14) + self.x**2 / 900))
        return np.asarray(np.maximum(hu, table * np.float32(350) - 1000), np.float32)

    def _lung_tissue(self) -> Field:
        """Draw the contents of the lungs: air, a gradient to the back, vessels, and what else the patient has."""
        p = self.patient
        back = np.clip(self.y / np.float32(0.7 * p.half_depth), -1, 1)
        tissue = np.float32(p.lung_hu) + np.float32(p.dependent_hu) * back**2 * (back > 0) + 18 * self.field(4, 16)
        if p.emphysema:
            tissue = np.where(self.field(5, 18) > 1.6 - p.emphysema, np.minimum(tissue, np.float32(-965)), tissue)
        tissue = np.asarray(tissue + np.zeros_like(self.lung), np.float32)
        vessels = self._vessels()
        tissue += self._disease_hu(tissue)
        tissue += vessels * np.maximum(np.float32(BLOOD) - tissue, 0)
        for x, y, z, radius in p.nodules:
            left = radius**2 - ((z - self.z) * LUNG_HEIGHT_MM) ** 2
            if left > 0:
                tissue += self.cover(self.ellipse(x, y, left**0.5, left**0.5)) * np.maximum(20 - tissue, 0)
        if p.effusion_mm and self.z > 0.55:
            level = 0.7 * p.half_depth - p.effusion_mm * (self.z - 0.55) / 0.45
            tissue += self.cover(self.y - np.float32(level) + np.zeros_like(tissue)) * np.maximum(15 - tissue, 0)
        return np.asarray(tissue, np.float32)

    def _vessels(self) -> Field:
        """Draw vessels, which get thinner outwards.

        Two random fields are each 0 on some surface. Where the two surfaces meet, there is a curve. A tube around this
        curve looks like a vessel.
        """
        p = self.patient
        outward = np.sqrt((np.abs(self.x) - 30) ** 2 + self.y**2) / np.float32(90)
        width = np.float32(0.34 * p.vessel_mm) * np.clip(1.25 - outward, 0.25, 1)
        large = np.exp(-((self.field(6, 24) ** 2 + self.field(7, 24) ** 2) / width**2))
        small = np.exp(-((self.field(8, 11) ** 2 + self.field(9, 11) ** 2) / (0.8 * width) ** 2))
        return np.asarray(np.clip(1.4 * large + 1.1 * small, 0, 1), np.float32)

    def _outlines(self) -> list[tuple[Lesion, Field]]:
        """Return the lesions in this cut, each with the distance to its irregular edge (mm, positive inside)."""
        cut = [(n, 1 - ((n.z - self.z) * LUNG_HEIGHT_MM / (1.3 * n.radius)) ** 2) for n in self.patient.lesions]
        near = [(lesion, float(left**0.5)) for lesion, left in cut if left > 0.01]
        if not near:
            return []
        rough = 5 * self.field(10, 14) + 3 * self.field(11, 7)
        return [
            (n, self.ellipse(n.x, n.y, n.radius * flat, n.radius * flat * n.stretch) + rough * np.float32(flat))
            for n, flat in near
        ]

    def _disease_hu(self, tissue: Any) -> Field:
        """Return the HU that lesions add to `tissue`: ground glass with a net-like texture, and consolidated cores."""
        added = np.zeros_like(tissue)
        if not self.outlines:
            return np.asarray(added, np.float32)
        texture = 1 + np.float32(0.22) * self.field(12, 5)
        for lesion, inside in self.outlines:
            share = np.clip(inside / np.float32(7), 0, 1)
            added = np.maximum(added, share * texture * np.float32(lesion.added_hu))
            if lesion.consolidated:
                core = np.clip((inside - np.float32((1 - lesion.consolidated) * lesion.radius)) / 3, 0, 1)
                added += core * np.maximum(-20 - tissue - added, 0)
        return np.asarray(added, np.float32)

    def _scan(self, hu: Field) -> Field:
        """Add the effects of a scanner: double contours by motion, blur by the kernel, and correlated noise."""
        p, size = self.patient, self.size
        if p.motion_mm:
            shift = max(1, round(p.motion_mm / self.pixel_mm))
            hu = (hu + np.roll(hu, shift, axis=0)) * np.float32(0.5)
        kernel = _blur(size, round(p.blur_px * size / 224, 1))
        rng = np.random.default_rng([*p.seed, 99, round(self.z * 1e6)])
        white = rng.standard_normal((size, size), np.float32)
        rows = rng.standard_normal((size, 1), np.float32)
        noise = np.float32(p.noise_hu) * (white + np.float32(0.12) * rows)
        return np.asarray(kernel @ (hu + noise) @ kernel.T, np.float32)
