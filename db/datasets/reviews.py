"""The labels that readers give to slices of jobs. A reader has one label for a slice, and can change or remove it."""

from collections import defaultdict
from collections.abc import Iterable

from pydantic import Field
from sqlalchemy import case, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from db import CLASSES, ClassName
from db.access.audit import Action, record
from db.clock import from_now
from db.ledger.views import Moment, View
from db.models import Review, Slice, User


class NotReviewable(Exception):
    """The slice was never prepared, so there is no image to label."""


class ReviewView(View):
    """A reader's label of a slice, and when the reader gave it."""

    user: str
    label: ClassName
    blind: bool = Field(
        description="The reader gave the label in a blind review, while the model's answer was hidden, and has not "
        "changed it. The reader may have seen the answer earlier. Labels by the API are not blind."
    )
    created_at: Moment


def set_review(s: Session, slice_id: int, user: User, label: int, *, blind: bool = False) -> None:
    """Set a reader's label of a slice (1: COVID). It replaces the reader's earlier label. Raises NotReviewable.

    `blind`: the model's answer is hidden until the reader has labelled the slice. Only the first label is stored as
    blind, and only until the reader changes or removes it.
    """
    slice_ = s.get(Slice, slice_id)
    if slice_ is None or slice_.array_row is None:
        raise NotReviewable("this slice has no image, so it cannot be labelled")
    record(s, Action.LABEL_SET, f"job {slice_.job_id}", f"slice {slice_id}: {CLASSES[label]}")
    if _change(s, slice_id, user, label):
        return
    try:
        with s.begin_nested():
            s.add(Review(slice_id=slice_id, user_id=user.id, label=label, blind=blind))
            s.flush()
    except IntegrityError:  # the same reader labelled the slice twice at the same moment
        _change(s, slice_id, user, label)


def _change(s: Session, slice_id: int, user: User, label: int) -> bool:
    mine = update(Review).where(Review.slice_id == slice_id, Review.user_id == user.id)
    still_blind = case((Review.label == label, Review.blind), else_=False)
    values = {"label": label, "blind": still_blind, "created_at": from_now()}
    return s.scalar(mine.values(values).returning(Review.id)) is not None


def remove_review(s: Session, slice_id: int, user: User) -> bool:
    """Remove a reader's label of a slice. Return False if there was none."""
    mine = (Review.slice_id == slice_id, Review.user_id == user.id, Review.label.is_not(None))
    if s.scalar(update(Review).where(*mine).values(label=None, blind=False).returning(Review.id)) is None:
        return False
    record(s, Action.LABEL_REMOVE, f"job {s.get_one(Slice, slice_id).job_id}", f"slice {slice_id}")
    return True


def reviews_of_slice(s: Session, slice_id: int) -> list[ReviewView]:
    """Return the labels of a slice, newest first."""
    return reviews_of_slices(s, [slice_id]).get(slice_id, [])


def reviews_of_slices(s: Session, slice_ids: Iterable[int]) -> dict[int, list[ReviewView]]:
    """Return the labels of these slices, by slice id. The labels of a slice are newest first."""
    reviews: dict[int, list[ReviewView]] = defaultdict(list)
    newest_first = (Review.created_at.desc(), Review.id.desc())
    for review in s.scalars(select(Review).where(Review.slice_id.in_(list(slice_ids))).order_by(*newest_first)):
        if review.label is not None:
            label = CLASSES[review.label]
            view = ReviewView(user=review.user.name, label=label, blind=review.blind, created_at=review.created_at)
            reviews[review.slice_id].append(view)
    return dict(reviews)
