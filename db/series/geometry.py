"""Derives notes on a series, and its bolus tracking slices, from the positions and orientations of its slices."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SAME_PLACE = 0.01  # mm; slices that are nearer than this are at one place
GAP = 1.5  # times the usual spacing
UNEVEN, UNEVEN_MM = 0.1, 0.1  # least deviation from the usual spacing: share of it, and mm (headers are rounded)
TILT = 1.0  # degrees between the slice's normal and the body's axis
STEEPEST = 45.0  # degrees; beyond, the slice is not axial, and not taken with a tilted gantry
TURNED = 0.05  # difference of a direction cosine: about 3 degrees
TRACKED = 5  # least different slices at one place for bolus tracking; a scan has one or two
TRACKED_PLACES = 2  # most crowded places of a series with bolus tracking; a series over time has more


class Place(NamedTuple):
    """Where a slice was taken. `pixels`: a hash of its picture; `is_dicom`: whether its file could state a position."""

    slice_id: int
    position: float | None
    orientation: str | None
    pixels: str | None
    is_dicom: bool


def tracking_slices(places: Sequence[Place]) -> list[int]:
    """Return the ids of the bolus tracking slices of a series, which only time the contrast agent.

    They are the slices at a place with five different pictures or more. If the series has more than two such places, it
    is a series over time, and nothing is returned. Copies of one picture count once.
    """
    crowded = [group for group in _by_place(places) if len({place.pixels for place in group}) >= TRACKED]
    return [place.slice_id for group in crowded for place in group] if len(crowded) <= TRACKED_PLACES else []


def notes_of(places: Sequence[Place]) -> list[str]:
    """Return the codes of the notes on a series, in the order of `db.reasons.SERIES_NOTES`."""
    groups = list(_by_place(places))
    notes = _spacing_notes(np.array([group[0].position for group in groups], np.float64))
    if any(len(group) > 1 for group in groups):
        notes.append("doubled")
    if any(place.position is None for place in places if place.is_dicom):
        notes.append("no_position")
    return notes + _orientation_notes({place.orientation for place in places if place.orientation})


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


def _spacing_notes(positions: NDArray[np.float64]) -> list[str]:
    if len(positions) < 3:  # one spacing is the usual one
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
