"""NIfTI volumes become axial slices from the feet to the head, as DICOM would show them; others are refused by name."""

from collections.abc import Iterator
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.orientations import axcodes2ornt, ornt_transform
from PIL import Image

from tests.worker.imaging.builders import grey
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.recipe import PreparedSlice, fit, lung_window
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.pool import DecoderPool

LIMITS = DecodeLimits()
SHAPE = (7, 6, 5)
AFFINE = np.diag([-0.7, 0.8, 1.5, 1.0])  # as dcm2niix writes it: to the left, to the front, to the head
Volume = np.ndarray[Any, Any]


def volume(seed: int = 0, kind: Any = np.int16) -> Volume:
    """HU by i, j, k, of which no plane is like another."""
    return np.random.default_rng(seed).integers(-1400, 300, SHAPE).astype(kind)


def written(image: Any) -> bytes:
    return bytes(image.to_bytes())


def nifti(voxels: Volume | None = None, affine: Volume | None = AFFINE, **fields: Any) -> bytes:
    """A NIfTI-1 file; `fields` of the header are written as they are."""
    data = bytearray(written(nibabel.Nifti1Image(volume() if voxels is None else voxels, affine)))
    layout = nibabel.nifti1.header_dtype.fields
    for name, value in fields.items():
        kind, at = layout[name][:2]
        raw = np.array(value, kind.base).tobytes()
        data[at : at + len(raw)] = raw
    return bytes(data)


def slices_of(data: bytes) -> list[PreparedSlice]:
    return decode(data, LIMITS)


def code(data: bytes, limits: DecodeLimits = LIMITS) -> str:
    with pytest.raises(SliceRejected) as rejected:
        decode(data, limits)
    return rejected.value.code


def expected(image: Any) -> list[Volume]:
    """The slices by nibabel: voxels to the right, front and head, shown with the patient's right on the left."""
    canonical = np.asanyarray(nibabel.as_closest_canonical(image).dataobj).astype(np.float64)
    return [fit(Image.fromarray(lung_window(plane[::-1, ::-1].T))) for plane in np.moveaxis(canonical, 2, 0)]


def assert_shows(data: bytes, image: Any) -> None:
    found, planes = slices_of(data), expected(image)
    assert len(found) == len(planes)
    assert all((slice_.pixels == plane).all() for slice_, plane in zip(found, planes, strict=True))


def test_volume_is_shown_as_dicom_shows_it() -> None:
    """Its array is by columns, rows from the back, and slices: `a[:, ::-1].transpose(2, 1, 0)` is DICOM's order."""
    found = slices_of(nifti())
    in_dicoms_order = volume()[:, ::-1].transpose(2, 1, 0)
    for slice_, hu in zip(found, in_dicoms_order, strict=True):
        assert (slice_.pixels == fit(Image.fromarray(lung_window(hu.astype(float))))).all()
    assert [slice_.frame for slice_ in found] == [0, 1, 2, 3, 4]
    assert {(s.format, s.mode, s.width, s.height) for s in found} == {("NIfTI", "int16", 7, 6)}
    assert [s.series.position for s in found if s.series] == [0.0, 1.5, 3.0, 4.5, 6.0]
    assert {s.series.orientation for s in found if s.series} == {"1\\0\\0\\0\\1\\0"}


ways = st.lists(st.booleans(), min_size=3, max_size=3)


@settings(deadline=None, max_examples=80)
@example(["L", "S", "P"], [False, False, False], 0.03125, 1, True)
@given(st.permutations("LPS"), ways, st.floats(-0.25, 0.25), st.sampled_from([1, 2]), st.booleans())
def test_axial_plane_is_found_in_every_orientation(
    axes: list[str], flips: list[bool], angle: float, version: int, by_qform: bool
) -> None:
    """Pixels and positions are those of nibabel's affine, of either version, by sform or by qform.

    A qform of NIfTI-1 states three parts of a quaternion as float32. The fourth follows from them. Near 0 it is mostly
    rounding error, which turns the volume by up to 5e-4 rad. nibabel's affine is then as far from the one that was
    written as ours is.
    """
    affine = AFFINE.copy()
    affine[:3, :3] = nibabel.eulerangles.euler2mat(angle, -angle, angle / 2) @ AFFINE[:3, :3]
    affine[:3, 3] = [12, -7, 300]
    codes = [
        axis.translate(str.maketrans("LPS", "RAI")) if flip else axis for axis, flip in zip(axes, flips, strict=True)
    ]
    wanted = ornt_transform(nibabel.io_orientation(affine), axcodes2ornt(codes))
    turned = nibabel.Nifti1Image(volume(), affine).as_reoriented(wanted)
    image = (nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image)(turned.dataobj, turned.affine)
    image.set_sform(turned.affine, 0 if by_qform else 1)
    image.set_qform(turned.affine, 1 if by_qform else 0)
    image = type(image).from_bytes(written(image))
    assert_shows(written(image), image)

    canonical = nibabel.as_closest_canonical(image)
    corners = [apply_affine(canonical.affine, (canonical.shape[0] - 1, canonical.shape[1] - 1, k)) for k in range(5)]
    across = np.cross(-canonical.affine[:3, 0] * [-1, -1, 1], -canonical.affine[:3, 1] * [-1, -1, 1])
    positions = np.array(corners) * [-1, -1, 1] @ (across / np.linalg.norm(across))
    found = [slice_.series.position for slice_ in slices_of(written(image)) if slice_.series]
    is_rounded = by_qform and version == 1
    assert np.allclose(found, positions, atol=0.05 if is_rounded else 1e-3)
    assert np.allclose(np.diff(found), np.diff(positions), atol=1e-3)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.float32, np.float64])
def test_types_of_voxels_give_the_same_slices(kind: Any) -> None:
    image = nibabel.Nifti1Image(volume(), AFFINE)
    for order in "<>":
        header = nibabel.Nifti1Header(endianness=order)
        header.set_data_dtype(np.dtype(kind).newbyteorder(order))
        other = nibabel.Nifti1Image(volume(kind=kind), AFFINE, header=header, dtype=kind)
        assert_shows(written(other), image)


@pytest.mark.parametrize(("slope", "inter"), [(1, -1024), (0.5, -1024), (2, -1400.5)])
def test_scaling_of_the_header_gives_hu(slope: float, inter: float) -> None:
    stored = np.random.default_rng(1).integers(0, 2400, SHAPE).astype(np.uint16)
    assert_shows(
        nifti(stored, scl_slope=slope, scl_inter=inter), nibabel.Nifti1Image(stored * float(slope) + inter, AFFINE)
    )


@pytest.mark.parametrize("slope", [0.0, float("nan"), float("inf")])
def test_slope_that_scales_nothing_leaves_the_intercept_out(slope: float) -> None:
    assert_shows(nifti(scl_slope=slope, scl_inter=-1024), nibabel.Nifti1Image(volume(), AFFINE))


def test_voxels_that_are_no_numbers_are_black() -> None:
    holes, filled = volume(kind=np.float32), volume()
    holes[0], filled[0] = np.nan, -2000
    assert_shows(nifti(holes), nibabel.Nifti1Image(filled, AFFINE))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (nifti(affine=None), "no_orientation"),
        (nifti(sform_code=0, qform_code=0), "no_orientation"),
        (nifti(srow_y=[-0.7, 0, 0, 0]), "no_orientation"),
        (nifti(srow_x=[float("nan"), 0, 0, 0]), "no_orientation"),
        (nifti(np.stack([volume()] * 2, -1)), "volumes"),
        (nifti((volume() > 0).astype(np.uint8)), "not_hu"),
        (nifti(np.sign(volume())), "not_hu"),
        (nifti((volume() + 1400).astype(np.uint16)), "not_hu"),
        (nifti(volume() / 1400), "not_hu"),
        (nifti(volume().astype(np.float32) * 1000), "not_hu"),
        (nifti((volume() + 1400).astype(np.uint16), scl_slope=0.001, scl_inter=-1024), "not_hu"),
        (nifti(np.full(SHAPE, np.nan, np.float32)), "not_hu"),
        (nifti(volume().astype(np.complex64)), "unsupported"),
        (nifti(vox_offset=9), "malformed"),
        (nifti()[:-1], "truncated"),
        (nifti()[:351], "truncated"),
        (nifti(dim=[3, 7, 6, 0, 1, 1, 1, 1]), "malformed"),
        (nifti(dim=[3, 7, 30000, 30000, 1, 1, 1, 1]), "truncated"),
        (nifti().replace(b"n+1\0", b"ni1\0"), "unsupported"),
        (nifti(srow_z=[0, 0.9, 0.9, 0], srow_y=[0, 0.9, -0.9, 0]), "not_axial"),
    ],
    ids=[
        "no codes", "codes of 0", "axes on one line", "an axis that is no number", "two volumes", "a mask",
        "a mask of signs", "HU + 1400", "scaled", "too large", "no tissue", "no numbers", "complex",
        "voxels in the header", "a byte short", "a header alone", "no slices", "more than there is",
        "a header of a pair", "between two planes",
    ],
)  # fmt: skip
def test_volume_that_cannot_be_read_rightly_is_refused_by_name(data: bytes, reason: str) -> None:
    assert code(data) == reason


@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(("unit", "in_mm"), [("meter", 1000), ("mm", 1), ("micron", 0.001), ("unknown", 1)])
def test_positions_are_in_mm_in_every_unit(version: Any, unit: str, in_mm: float) -> None:
    """SimpleITK 2.5.7 converts units like this; the affine of nibabel 5.4.2 stays in the unit of the file."""
    image = version(volume(), AFFINE / [[in_mm], [in_mm], [in_mm], [1]])
    image.header.set_xyzt_units(unit, "sec")
    found = [slice_.series.position for slice_ in slices_of(written(image)) if slice_.series]
    assert found == pytest.approx([0.0, 1.5, 3.0, 4.5, 6.0])


def test_four_dimensions_of_one_volume_are_read() -> None:
    assert_shows(nifti(volume()[..., None]), nibabel.Nifti1Image(volume(), AFFINE))


def test_caps_hold_for_volumes() -> None:
    assert code(nifti(), DecodeLimits(max_pages=4)) == "pages"
    assert code(nifti(), DecodeLimits(max_pixels=41)) == "pixels"


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with DecoderPool(1, LIMITS) as pool:
        yield pool


@pytest.mark.slow
def test_sandbox_reads_a_whole_scan(pool: DecoderPool) -> None:
    """A volume that is larger than the memory of a decoder without it."""
    plane = (grey(512, 512).astype(np.int16) * 8 - 1400).T
    data = nifti(np.repeat(plane[..., None], 1100, 2))
    assert len(data) > LIMITS.memory_bytes
    ((_, result),) = pool.map([(0, data)])
    assert isinstance(result, list), result
    assert len({slice_.sha256_pixels for slice_ in result}) == 1
    assert len(result) == 1100


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 347), st.integers(0, 255)), min_size=1, max_size=6), st.integers(352, 800))
def test_damaged_header_ends_in_slices_or_a_reason(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(nifti())
    for at, value in changes:
        data[at] = value
    try:
        slices = decode(bytes(data[:length]) if length < 700 else bytes(data), DecodeLimits(max_pixels=10_000))
    except SliceRejected:
        return
    assert slices


def test_slices_of_a_volume_with_1024_subtracted_twice_are_noted() -> None:
    hu = np.full((64, 64, 3), -850, np.int16)
    hu[:, 16:48] = 50
    hu[:, :, 1] = -850  # air alone
    metal = hu.copy()
    metal[0, 16] = 1500  # so that the highest value is that of tissue
    twice = metal - 1024
    assert [slice_.notes for slice_ in slices_of(nifti(hu))] == [(), ("odd_hu",), ()]
    assert [slice_.notes for slice_ in slices_of(nifti(twice))] == [("odd_hu",)] * 3
