"""JSON documents in columns, as frozen pydantic models. They are checked when they are written or read."""

from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import ConfigDict, Field
from sqlalchemy import Dialect
from sqlalchemy.types import JSON, TypeDecorator

from db.models.base import Json
from db.models.kept import Kept

D = TypeVar("D", bound="Document")


class Document(Kept):
    """A document that is stored as JSON.

    Validation does not convert values. It refuses unknown members and numbers that are not finite. Members that were
    not given have their defaults, and are not stored.
    """

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, value: Self | Json) -> Self:
        """Return the document itself, or the one that JSON describes. Raises pydantic's ValidationError."""
        return cls.model_validate(value)


class LargestGroup(Kept):
    """The group with the most slices of a class: its share of these slices, and the number of groups that it joins."""

    share: float
    joined: int = 1


class Measured(Kept):
    """The values of metrics on `n` slices of `groups` groups. Groups that share near-identical slices count as one.

    A metric is None if the slices lack a class that it needs. `confusion_matrix`: [[tn, fp], [fn, tp]]. `class_groups`:
    how many groups have a slice of each class. A group with slices of both classes counts in both. `named_groups`: the
    number of groups before they are joined. `effective_groups`: for each class, how many groups with equal numbers of
    slices would say as much. `largest_groups`: the largest group of each class. Older results did not join groups, and
    do not state the last three.
    """

    accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    specificity: float | None = None
    f1: float | None = None
    auc: float | None = None
    pr_auc: float | None = None
    brier: float | None = None
    ece: float | None = None
    n: int | None = None
    groups: int | None = None
    named_groups: int | None = None
    class_groups: dict[str, int] = Field(default_factory=dict)
    effective_groups: dict[str, float] = Field(default_factory=dict)
    largest_groups: dict[str, LargestGroup] = Field(default_factory=dict)
    confusion_matrix: list[list[int]] = Field(default_factory=list)


class DocumentType(TypeDecorator[D], Generic[D]):
    """A JSON column that holds one kind of document."""

    impl = JSON
    cache_ok = True

    def __init__(self, document: type[D]) -> None:
        super().__init__()
        self.document = document

    def process_bind_param(self, value: D | Json | None, dialect: Dialect) -> Json | None:
        return None if value is None else self.document.of(value).as_json()

    def process_result_value(self, value: Json | None, dialect: Dialect) -> D | None:
        return None if value is None else self.document.of(value)


class SplitName(Document):
    """The split that a version was trained on: its id, and the label of its dataset."""

    id: int
    dataset: str


class Origin(Document):
    """The run, the split and the ancestors of a version. The ids belong to the database in which the version was made.

    `lineage`: the labels of its ancestors, the oldest first.
    """

    run: int | None = None
    split: SplitName | None = None
    lineage: list[str] = Field(default_factory=list)


class Facts(Origin):
    """How a model version was made. A package may state other facts too, which are kept unchanged.

    `imported`: the origin of a version that was made elsewhere. Its ids and labels belong to that database, not to this
    one. `floor`: the sensitivity that the version must reach to be promoted (`db.evaluation.gate.floors_of`).
    `stopped_early`: somebody stopped the training before its last epoch.
    """

    model_config = ConfigDict(extra="allow")

    imported: Origin | None = None
    dataset: str | None = None
    preset: str | None = None
    seed: int | None = None
    config: Json = Field(default_factory=dict)
    floor: Annotated[float, Field(ge=0, le=1)] | None = None
    threshold_rule: str | None = None
    allowed_leaks: list[str] = Field(default_factory=list)
    environment: Json = Field(default_factory=dict)
    training_seconds: float | None = None
    stopped_early: bool = False


Share = Annotated[float, Field(ge=0, le=1)]
RuleName = Literal["top-k-mean", "max", "mean", "noisy-or"]


class Rate(Document):
    """A share, and the ends of its 95 % interval. The ends are None if the effect of chance cannot be estimated."""

    value: Share
    low: Share | None = None
    high: Share | None = None


class Tuning(Document):
    """How a rule of findings was tuned: the dataset, and how well the procedure works on unseen groups.

    `engine`: the engine that gave the scores. `groups`: the number of groups of each class. Groups that share slices
    count as one. Such a group may count in both classes. `joined_groups`: the number of groups of both classes, each
    counted once, or None for an older rule. `named_groups`: their number before they are joined like that, or None for
    an older rule, whose groups were not joined. `left_out`: groups without a slice of the lungs. `no_verdict`: groups
    without a verdict, because too many of their slices are out of distribution. `held_out`: accuracy, recall,
    specificity, precision and negative_precision by groups. Each group is judged by a rule that was chosen without this
    group. `by_default`: the same metrics of the default rule. A metric is missing if no group got a verdict that it
    needs. `chosen`: the rules that the outer folds chose.
    """

    dataset: str
    dataset_hash: str | None = None
    engine: str
    seed: int
    groups: dict[str, int]
    joined_groups: int | None = None
    named_groups: int | None = None
    left_out: int = 0
    no_verdict: int = 0
    held_out: dict[str, Rate] = Field(default_factory=dict)
    by_default: dict[str, Rate] = Field(default_factory=dict)
    chosen: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    created_at: str = ""

    @property
    def all_groups(self) -> int:
        """Return the number of groups of both classes. For an older rule, it is the sum over the classes."""
        return sum(self.groups.values()) if self.joined_groups is None else self.joined_groups


class FindingRule(Document):
    """A rule of `db.findings.rules`: its version, its k (if it has one), and its threshold for COVID.

    `tuned`: how the rule was chosen, or None for the default rule of a model version.
    """

    rule: RuleName
    version: Literal[2]
    k: Annotated[int, Field(ge=1, le=100_000)] | None = None
    threshold: Share
    tuned: Tuning | None = None

    @property
    def name(self) -> str:
        """Return the name of the rule with its k, for people, such as `top-k-mean (k 10)`."""
        return self.rule if self.k is None else f"{self.rule} (k {self.k})"

    @property
    def untuned(self) -> Self:
        """Return a copy of the rule without `tuned`."""
        return self.model_copy(update={"tuned": None})


class GroupCounts(Document):
    """The groups of a dataset: how many have slices of only one class or of both, and the size of the largest."""

    count: int = 0
    covid: int = Field(default=0, alias="COVID")
    non_covid: int = Field(default=0, alias="non-COVID")
    both: int = 0
    slices: dict[str, dict[str, int]] = Field(default_factory=dict)


class Duplicates(Document):
    """Identical slices, or pairs of near-identical slices: counts and examples, within a class and across classes."""

    within: int = 0
    across: int = 0
    examples_within: list[list[str]] = Field(default_factory=list)
    examples_across: list[list[str]] = Field(default_factory=list)


class LargestCluster(Document):
    """The largest cluster of groups that identical or near-identical slices connect, with its slices.

    `groups` is 0 if no groups are connected.
    """

    groups: int = 0
    slices: int = 0


class LeftOut(Document):
    """Files that were left out for one reason."""

    count: int
    examples: list[str] = Field(default_factory=list)


class ShortcutScore(Document):
    """How well one fact of a file alone predicts its class."""

    balanced_accuracy: float
    auc: float


class Shortcuts(Document):
    """The shortcut check: whether facts of the files, without their pictures, predict the class."""

    facts: dict[str, ShortcutScore] = Field(default_factory=dict)
    found: bool = False
    weak: bool = False
    verdict: str = ""


class Identity(Document):
    """How well DICOM headers keep patients apart. Only slices whose group comes from a header count.

    `largest`: the number of slices in the largest group, which come from `largest_studies` studies. `folders`: how many
    groups the folders of these slices would give. `problem`: `each_slice_a_patient` or `one_patient_for_all` if a split
    by these groups would not keep patients apart, or else None. `several_births`: how many patient IDs have several
    birth dates, so that they may stand for several patients.
    """

    slices: int = 0
    groups: int = 0
    largest: int = 0
    largest_studies: int = 0
    folders: int = 0
    problem: str | None = None
    several_births: int = 0


class DatasetReport(Document):
    """The report on a dataset, which its build makes.

    `blind_labels`, `shared_labels`, `contested_labels`: of reviewed slices, the labels that are blind, and the slices
    with labels of several readers, and of readers who disagree. `counts`: slices by class, and `rejected` files.
    `groups_from`: slices by the origin of their group. `sizes`, `modes`, `formats`, `splits`: slices by value and
    class. `left_out`: files by reason code. `labelled_files`: by class, the number of `files` with a label, and how
    many of them were `left_out`. Text files and other documents are not counted. `odd_hu`: slices by class whose values
    may not be HU. `identical_to`: the earlier dataset with the same slices. `warnings`: what a person should read
    first.
    """

    labels_from: str = ""
    blind_labels: int = 0
    shared_labels: int = 0
    contested_labels: int = 0
    groups_from: dict[str, int] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    groups: GroupCounts = GroupCounts()
    identity: Identity = Identity()
    sizes: dict[str, dict[str, int]] = Field(default_factory=dict)
    modes: dict[str, dict[str, int]] = Field(default_factory=dict)
    formats: dict[str, dict[str, int]] = Field(default_factory=dict)
    splits: dict[str, dict[str, int]] = Field(default_factory=dict)
    identical: Duplicates = Duplicates()
    near_identical: Duplicates = Duplicates()
    largest_cluster: LargestCluster = LargestCluster()
    left_out: dict[str, LeftOut] = Field(default_factory=dict)
    labelled_files: dict[str, dict[str, int]] = Field(default_factory=dict)
    odd_hu: dict[str, int] = Field(default_factory=dict)
    shortcuts: Shortcuts | None = None
    identical_to: str | None = None
    warnings: list[str] = Field(default_factory=list)


class JobTally(Document):
    """The sums over the rows of one job.

    `outcomes`: slices by outcome. `reasons`: rejected and quarantined slices by reason code. `positive`: slices
    predicted as COVID. `ood`: predicted slices that are out of distribution, or None if the model does not measure
    this. `engines`: predictions by engine. `announced`: the entries that the listings of its `uploads` announce.
    `unlisted`: uploads that announce no number and are still being read. `unpacked`: uploads that were read to their
    end. `dicomdirs`: files named DICOMDIR, which are not slices. `scanned`: patients with a study that the files state.
    `several_scans`: series that seem to hold the scans of several folders. `studies`: studies that a file states, by
    its UID or by a patient's ID; `largest`: those of the patient with the most. `series`: series that the files state.
    """

    outcomes: dict[str, int] = Field(default_factory=dict)
    reasons: dict[str, int] = Field(default_factory=dict)
    positive: int = 0
    ood: int | None = None
    engines: dict[str, int] = Field(default_factory=dict)
    announced: int = 0
    unlisted: int = 0
    uploads: int = 0
    unpacked: int = 0
    dicomdirs: int = 0
    scanned: int = 0
    several_scans: int = 0
    studies: int = 0
    largest: int = 0
    series: int = 0
