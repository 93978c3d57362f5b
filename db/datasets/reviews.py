"""What readers say that slices of jobs show: one word a reader and slice, the newest counts; it can be taken back."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db.clock import from_now
from db.models import Review, Slice, User
from db.terms import CLASSES


class NotReviewable(Exception):
    """This slice was never prepared, so there is nothing to look at; one line for people."""


@dataclass(frozen=True)
class ReviewView:
    """Who said what of a slice, and when."""

    user: str
    label: str
    created_at: datetime

    def as_dict(self) -> dict[str, Any]:
        """As JSON: times in RFC 3339."""
        return asdict(self) | {"created_at": self.created_at.isoformat()}


def set_review(s: Session, slice_id: int, user: User, label: int) -> None:
    """A reader's word on a slice (1: COVID), in place of what they said before. Raises NotReviewable."""
    slice_ = s.get(Slice, slice_id)
    if slice_ is None or slice_.array_row is None:
        raise NotReviewable("there is no image of this slice, so nothing to label")
    if _change(s, slice_id, user, label):
        return
    try:
        with s.begin_nested():
            s.add(Review(slice_id=slice_id, user_id=user.id, label=label))
            s.flush()
    except IntegrityError:  # the same reader said it twice at the same moment
        _change(s, slice_id, user, label)


def _change(s: Session, slice_id: int, user: User, label: int) -> bool:
    mine = update(Review).where(Review.slice_id == slice_id, Review.user_id == user.id)
    return s.scalar(mine.values(label=label, created_at=from_now()).returning(Review.id)) is not None


def remove_review(s: Session, slice_id: int, user: User) -> bool:
    """Take a reader's word on a slice back; False if there was none."""
    mine = delete(Review).where(Review.slice_id == slice_id, Review.user_id == user.id)
    return s.scalar(mine.returning(Review.id)) is not None


def reviews_of_slice(s: Session, slice_id: int) -> list[ReviewView]:
    """What readers say of a slice, the newest first."""
    return reviews_of_slices(s, [slice_id]).get(slice_id, [])


def reviews_of_slices(s: Session, slice_ids: Iterable[int]) -> dict[int, list[ReviewView]]:
    """What readers say of these slices, by slice, the newest first."""
    return _by_slice(s, Review.slice_id.in_(list(slice_ids)))


def reviews_of_job(s: Session, job_id: str) -> dict[int, list[ReviewView]]:
    """What readers say of the slices of a job, by slice, the newest first."""
    return _by_slice(s, Review.slice_id.in_(select(Slice.id).where(Slice.job_id == job_id)))


def _by_slice(s: Session, condition: Any) -> dict[int, list[ReviewView]]:
    found: dict[int, list[ReviewView]] = defaultdict(list)
    for review in s.scalars(select(Review).where(condition).order_by(Review.created_at.desc(), Review.id.desc())):
        found[review.slice_id].append(ReviewView(review.user.name, CLASSES[review.label], review.created_at))
    return dict(found)
