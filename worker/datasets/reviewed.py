"""Reads the reviewed slices of jobs for a dataset."""

from collections.abc import Sequence

from db.database import read_scope
from db.datasets import datasets
from db.datasets.datasets import ReviewedSlice
from db.datasets.slices import BY_FOLDERS, BY_JOB, REVIEWS
from db.models import Outcome
from db.series.images import slice_pixels
from db.storage import storage
from worker.datasets.collector import Collector, Item
from worker.datasets.label_table import FileLabels
from worker.datasets.patient_groups import DicomGroups, folder_groups, series_key
from worker.datasets.sources import PICTURE, NotBuildable, Note, check_classes, group_of
from worker.decoding import new_decoders
from worker.imaging.recipe import SeriesInfo
from worker.imaging.rejections import SliceRejected

Original = tuple[int, str]  # the owner's id and the file's SHA-256
Header = SeriesInfo | SliceRejected | None


def read_reviews(job_ids: Sequence[str], collector: Collector, note: Note, *, folders_first: bool) -> None:
    """Collect the reviewed slices of jobs, with the pixels that were prepared for predicting.

    Groups come from headers, folders and pages, as in any dataset. All files count as files of a single archive. If
    they are of several archives or jobs, folders name groups but not known patients. A slice without any of these gets
    its whole job as its group. With `folders_first`, headers name a group only if no folder does.

    Raises NotBuildable, FileMissing, FileDamaged, OSError, DecoderUnavailable, StaleClaim.
    """
    collector.labels_from = REVIEWS
    with read_scope() as s:
        reviewed = list(datasets.reviewed_slices(s, job_ids))
        files, with_pages = datasets.prepared_files(s, job_ids), datasets.files_with_pages(s, job_ids)
    if not reviewed:
        raise NotBuildable("no slice of these jobs was labelled by the job's owner or by an admin")
    check_classes({review.label for review in reviewed}, "reviews", len(reviewed))
    folders = dict(zip(files, folder_groups([(0, name) for _, name in files.values()]), strict=True))
    # the folders of several archives may be the series of one patient each, or of the same patients
    are_patients = len({archive for archive, _ in files.values()}) == 1
    headers, groups = _read_headers(reviewed, note), DicomGroups()
    for ordinal, review in enumerate(reviewed):
        slice_ = review.slice
        header = headers.get((review.owner_id, slice_.sha256 or ""))
        series = header if isinstance(header, SeriesInfo) else None
        folder = folders[slice_.id]
        # files of several jobs often have the same name, such as ct.nii
        pages = f"file-{slice_.sha256[:16]}" if slice_.sha256 and slice_.sha256 in with_pages else ""
        labels = FileLabels(review.label, folder=folder)
        by_header = groups.of(series)
        group, origin = group_of(labels, by_header, pages, folders_first=folders_first)
        if not group or (origin == BY_FOLDERS and not are_patients):
            group, origin = group or f"job-{slice_.job_id}", BY_JOB
        item = _reviewed_item(ordinal, review, group)
        item.series = (None if folders_first else series_key(series)) or (slice_.sha256 if pages else None)
        # the job rejected it, for example because its study names two patients
        if slice_.state == Outcome.REJECTED:
            collector.leave_out(item, slice_.reason or "", slice_.detail or "")
        elif isinstance(header, SliceRejected):
            collector.leave_out(item, header.code, header.detail)
        elif header and header.burned_in:
            collector.leave_out(item, "burned_in")
        else:
            pixels = slice_pixels(review.array_sha256, slice_.array_row or 0, slice_.pixels_sha256 or "")
            collector.note_header(series, by_header, group, origin, folder)
            collector.take(item, pixels, origin, slice_.notes)
            collector.blind_labels += review.blind
            collector.shared_labels += review.is_shared
            collector.contested_labels += review.is_contested
        note(0.5 + (ordinal + 1) / len(reviewed) / 2)
    collector.flush()


def _reviewed_item(ordinal: int, review: ReviewedSlice, group: str) -> Item:
    slice_ = review.slice
    return Item(
        ordinal,
        slice_.name,
        slice_.frame,
        label=review.label,
        group=group,
        sha256=slice_.sha256,
        pixels_sha256=slice_.pixels_sha256,
        **{name: getattr(slice_, name) for name in PICTURE},
    )


def _read_headers(reviewed: Sequence[ReviewedSlice], note: Note) -> dict[Original, Header]:
    """Read the headers of the DICOM files again in the sandbox, each file of an owner once.

    Reason: a job does not store the patient. It also does not store whether text is burned into the picture.
    """
    files: dict[int, dict[str, None]] = {}  # SHA-256 by owner, because two owners never share a decoder
    for review in reviewed:
        if review.slice.format == "DICOM" and review.slice.sha256:
            files.setdefault(review.owner_id, {})[review.slice.sha256] = None
    count = sum(map(len, files.values()))
    headers: dict[Original, Header] = {}
    with new_decoders() as pool:
        for owner_id, hashes in files.items():
            pool.serve(owner_id)
            for sha256, result in pool.map((sha256, storage().read(sha256)) for sha256 in hashes):
                headers[owner_id, sha256] = result if isinstance(result, SliceRejected) else result[0].series
                note(len(headers) / count / 2)
    return headers
