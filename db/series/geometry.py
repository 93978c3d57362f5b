"""Derives what the positions and orientations of slices show: notes on a series, bolus tracking, a known order."""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from db.models import Outcome, Slice

BOLUS_TRACKING = "bolus_tracking"
HAS_PLACE = or_(Slice.state != Outcome.REJECTED, Slice.reason == BOLUS_TRACKING)
"""Which slices of a series count when their order is settled."""

SAME_PLACE = 0.01  # mm; slices that are nearer than this are at the same place
GAP = 1.5  # a spacing larger than the usual one by this factor is a gap
UNEVEN, UNEVEN_MM = 0.1, 0.1  # least deviation from the usual spacing, as a share and in mm
TILT = 1.0  # degrees between the slice's normal and the body's axis
STEEPEST = 45.0  # degrees; a slice with a larger angle is not axial, and the gantry was not only tilted
TURNED = 0.05  # difference of a direction cosine: about 3 degrees
TRACKED = 5  # so many different slices at a place mean bolus tracking; a scan has one or two
TRACKED_PLACES = 2  # bolus tracking has at most so many crowded places; a series over time has more
SEVERAL_SCANS, IN_TURN = "several_scans", "in_turn"
SCAN = 4  # a folder of fewer positions is not a scan; few positions are often regular by chance
ONE_PLACE = 0.1  # largest difference in the share of lung at one place; scans of a chest differ by 0.10 to 0.20


class Place(NamedTuple):
    """Where a slice was taken.

    `pixels`: the hash of its picture. `lung`: the share of the picture that is lung, or None if it is not measured.
    `is_dicom`: its file could state a position. `folder`: the upload and the folder of its file.
    `is_located`: the position is SliceLocation, so the direction is not known.
    """

    slice_id: int
    position: float | None
    orientation: str | None
    pixels: str | None
    lung: float | None
    is_dicom: bool
    folder: tuple[int, str]
    is_located: bool


def tracking_slices(places: Sequence[Place]) -> list[int]:
    """Return the ids of the bolus tracking slices of a series, which are taken only to time the contrast agent.

    These are the slices at places with at least five different pictures. If a series has more than two such places, it
    is a series over time: return []. Copies of a picture count once. If the slices of a place differ much in how much
    lung they show, they were taken at several places, and the stated position is wrong. It may be a dummy too if all
    slices state one position, but not all an orientation, which every scanner states.
    """
    groups = list(_by_place(places))
    crowded = [group for group in groups if len({place.pixels for place in group}) >= TRACKED]
    is_dummy = len(groups) == 1 and not all(place.orientation for place in groups[0])
    if is_dummy or len(crowded) > TRACKED_PLACES:
        return []
    return [place.slice_id for group in crowded if _lung_range(group) <= ONE_PLACE for place in group]


def notes_of(places: Sequence[Place]) -> list[str]:
    """Return the codes of the notes on what slices of a series show, in the order of `db.reasons.SERIES_NOTES`."""
    groups = list(_by_place(places))
    notes = _spacing_notes(_positions(places))
    if any(len(group) > 1 for group in groups):
        notes.append("doubled")
    notes += _of_several_folders(places)
    if any(place.position is None for place in places if place.is_dicom):
        notes.append("no_position")
    if any(place.is_located for place in places):
        notes.append("by_location")
    return notes + _orientation_notes({place.orientation for place in places if place.orientation})


def placed_series(s: Session, series_ids: Sequence[int]) -> set[int | None]:
    """Return which of these series have slices that run from the feet to the head, as their files state.

    In such a series, each slice that was not rejected has a position, and so has bolus tracking. If there are several
    slices, they are not all at one place.
    """
    return set(s.scalars(_placed().where(Slice.series_id.in_(series_ids))))


def is_placed(s: Session, slice_id: int) -> bool:
    """Return whether the slices of the series of this slice run from the feet to the head."""
    own = select(Slice.series_id).where(Slice.id == slice_id).scalar_subquery()
    return s.scalar(_placed().where(Slice.series_id == own)) is not None


def _placed() -> Select[int | None]:
    varies = func.max(Slice.position) - func.min(Slice.position) >= SAME_PLACE
    all_state_it = func.count(Slice.position) == func.count()
    query = select(Slice.series_id).where(HAS_PLACE).group_by(Slice.series_id)
    return query.having(all_state_it, or_(func.count() == 1, varies))


def _lung_range(places: Sequence[Place]) -> float:
    shares = [place.lung for place in places if place.lung is not None]
    return max(shares, default=0.0) - min(shares, default=0.0)


def _by_place(places: Sequence[Place]) -> Iterator[list[Place]]:
    """Yield the slices of each place, from the feet to the head."""
    stated = [place for place in places if place.position is not None]
    group: list[Place] = []
    for place in sorted(stated, key=lambda place: place.position or 0.0):
        if group and (place.position or 0.0) - (group[-1].position or 0.0) >= SAME_PLACE:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _of_several_folders(places: Sequence[Place]) -> list[str]:
    """Return a note if two folders of a series are regular by themselves and cover the same part of the body.

    Each range of positions then overlaps the other by half of the shorter one or more. An export may also spread one
    scan over folders in any order. Its folders are then not regular, except a few by chance. If a folder holds all
    slices of another, it is a copy and does not count. All folders are taken whole, so their names do not matter.
    """
    held: dict[tuple[int, str], set[tuple[float | None, str | None]]] = {}
    of_folder: dict[tuple[int, str], list[Place]] = {}
    for place in places:
        if place.position is not None:
            held.setdefault(place.folder, set()).add((place.position, place.pixels))
            of_folder.setdefault(place.folder, []).append(place)
    if len(held) < 2:
        return []
    regular: dict[frozenset[Any], NDArray[np.float64]] = {}
    for folder, slices in held.items():
        positions = _positions(of_folder[folder])
        if len(positions) >= SCAN and not _spacing_notes(positions):
            regular[frozenset(slices)] = positions
    together = set().union(*regular)
    if 2 * len(together) < len(set().union(*held.values())):
        return []
    copies = _that_hold_another(regular)
    scans = [positions for slices, positions in regular.items() if slices not in copies]
    ranges = sorted((float(positions[0]), float(positions[-1])) for positions in scans)
    if not any(_overlap(one, other) for one, other in pairwise(ranges)):
        return []
    return [IN_TURN if _are_in_turn(scans, len(held)) else SEVERAL_SCANS]


def _that_hold_another(folders: Collection[frozenset[Any]]) -> set[frozenset[Any]]:
    """Return the folders that hold all slices of another one."""
    holders: dict[Any, list[frozenset[Any]]] = {}
    for folder in folders:
        for one in folder:
            holders.setdefault(one, []).append(folder)
    fewest = ((folder, min((holders[one] for one in folder), key=len)) for folder in folders)
    return {other for folder, others in fewest for other in others if folder < other}


def _are_in_turn(scans: Sequence[NDArray[np.float64]], folders: int) -> bool:
    """Return whether these positions may be those of one regular scan that was dealt to `folders` folders in turn."""
    spacing = float(np.median([np.median(np.diff(positions)) for positions in scans]))
    spacings = np.diff(np.sort(np.concatenate(scans)))
    between = spacings[spacings < (1 - UNEVEN) * spacing]
    step = float(np.quantile(between, 0.25)) if len(between) else 0.0
    if step < SAME_PLACE or round(spacing / step) > folders:
        return False
    steps = between / step
    return float(np.abs(steps - np.maximum(1, np.round(steps))).mean()) <= UNEVEN


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return shared > 0 and shared >= min(one[1] - one[0], other[1] - other[0]) / 2


def _positions(places: Sequence[Place]) -> NDArray[np.float64]:
    """Return the different positions of slices, float64[n], from the feet to the head."""
    return np.array([group[0].position for group in _by_place(places)], np.float64)


def _spacing_notes(positions: NDArray[np.float64]) -> list[str]:
    if len(positions) < 3:  # a single spacing is the usual one
        return []
    spacings = np.diff(positions)
    usual = float(np.median(spacings))
    is_gap = spacings > GAP * usual
    is_uneven = ~is_gap & (np.abs(spacings - usual) > max(UNEVEN * usual, UNEVEN_MM))
    return [code for code, found in (("gap", is_gap), ("uneven", is_uneven)) if found.any()]


def _orientation_notes(orientations: set[str]) -> list[str]:
    if not orientations:
        return []
    axes = np.array([[float(axis) for axis in text.split("\\")] for text in sorted(orientations)])
    normals = np.cross(axes[:, :3], axes[:, 3:])
    along = np.abs(normals[:, 2]) / np.linalg.norm(normals, axis=1)
    tilts = np.degrees(np.arccos(np.clip(along, 0, 1)))
    is_tilted = ((tilts > TILT) & (tilts < STEEPEST)).any()
    is_mixed = (np.ptp(axes, axis=0) > TURNED).any()
    return [code for code, found in (("tilted", is_tilted), ("mixed_orientation", is_mixed)) if found]
