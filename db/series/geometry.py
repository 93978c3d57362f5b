"""Derives what the positions and orientations of slices show: notes on a series, bolus tracking, a known order."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from operator import itemgetter
from typing import NamedTuple

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
SEVERAL_SCANS = "several_scans"
SCAN = 3  # a folder of fewer positions is not a scan
HOLE = 10  # a larger multiple of the usual spacing is a hole: slices in it are not between slices of the folder
EVEN, SPREAD = 0.9, 2 / 3
"""Least share of usual spacings in all folders together, and largest share in single folders, if a scan was spread.

Of 300 slices in 2 folders by chance, single folders had at most 0.57. Of two people of 60 slices between each other, of
which up to 30 % were lost, both shares were nearly equal."""
ONE_PLACE = 0.1  # largest difference in the share of lung at one place; scans of a chest differ by 0.10 to 0.20

_Slices = set[tuple[float, str | None]]
"""The position and the hash of the picture of each slice of a folder."""


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
    if _are_several_scans(places):
        notes.append(SEVERAL_SCANS)
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


def _are_several_scans(places: Sequence[Place]) -> bool:
    """Return whether two folders cover the same part of the body, and do not seem to hold slices of one scan.

    An export may spread one scan over folders by chance. Then the slices of all folders together have equal distances,
    and those of single folders do not. If those of single folders have equal distances too, return True. They may be
    one scan that was dealt to the folders in turn, or scans of several people.
    """
    folders: dict[tuple[int, str], _Slices] = {}
    for place in places:
        if place.position is not None:
            folders.setdefault(place.folder, set()).add((place.position, place.pixels))
    scans = [slices for slices in folders.values() if len(_apart(slices)) >= SCAN]
    by_range = sorted(((*_range(slices), slices) for slices in scans), key=itemgetter(0, 1))
    pairs = ((one, other) for (_, end, one), (start, _, other) in combinations(by_range, 2) if start < end)
    if not any(_covers(one, other) or _covers(other, one) for one, other in pairs):
        return False
    every = set().union(*folders.values())
    if _fill_holes(every, max(scans, key=len)):
        return False
    return _even_share([every]) < EVEN or _even_share(scans) > SPREAD


def _fill_holes(every: _Slices, largest: _Slices) -> bool:
    """Return whether slices of other folders only fill holes of the largest folder, as slices that came late do.

    Then all slices are at even distances, which are those of the largest folder, and no place comes twice.
    """
    positions = _apart(every)
    usual = float(np.median(np.diff(_apart(largest))))
    spacings = np.diff(positions)
    is_as_usual = abs(float(np.median(spacings)) - usual) <= UNEVEN_MM and spacings.min() >= (1 - UNEVEN) * usual
    return len(positions) == len(every) and is_as_usual and _even_share([every]) >= EVEN


def _apart(slices: _Slices) -> NDArray[np.float64]:
    """Return the positions of slices from the feet to the head, float64[n], each place once."""
    positions = np.sort([position for position, _ in slices])
    return positions[np.diff(positions, prepend=-np.inf) >= SAME_PLACE]


def _range(slices: _Slices) -> tuple[float, float]:
    positions = [position for position, _ in slices]
    return min(positions), max(positions)


def _covers(one: _Slices, other: _Slices) -> bool:
    """Return whether at least half of the slices of `other` are not in `one` and lie between slices of `one`.

    Slices that both hold do not count, because they prove one scan. A slice in a hole of `one` does not lie between its
    slices: a slice that was exported late makes such holes.
    """
    positions, between = _apart(one - other), np.array([position for position, _ in other - one])
    if len(positions) < 2 or 2 * len(between) < len(other):
        return False
    between = between[(between >= positions[0]) & (between <= positions[-1])]
    spacings = np.diff(positions)
    after = np.searchsorted(positions[1:-1], between, side="right")
    is_near = spacings[after] <= HOLE * np.median(spacings)
    return 2 * int(is_near.sum()) >= len(other)


def _even_share(folders: Sequence[_Slices]) -> float:
    """Return the share of the distances between neighbouring slices of a folder that are usual for this folder."""
    is_even = []
    for slices in folders:
        spacings = np.diff(_apart(slices))
        usual = float(np.median(spacings))
        is_even.append(np.abs(spacings - usual) <= max(UNEVEN * usual, UNEVEN_MM))
    return float(np.concatenate(is_even).mean())


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
