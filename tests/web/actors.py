"""People who use the web application, what they send it, and a worker's part played through db."""

import hashlib
import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from apiflask import APIFlask
from flask.testing import FlaskClient
from numpy.typing import NDArray
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from db.access import tokens
from db.clock import from_now
from db.database import read_scope, session_scope
from db.datasets import datasets
from db.ledger import chunks, jobs, queue, recording
from db.ledger.leases import Claim
from db.ledger.predictions import PredictedSlice, cam_bytes
from db.ledger.recording import ReadSlice
from db.models import EngineProof, Outcome, Slice, Upload, User
from db.registry import engine_proofs
from db.storage import storage
from training.launch.weights_file import base_shapes

HOLDS = "agrees with the package's proof: a probability differs by at most 0.0041"
DIFFERS = "is not used: it differs from the package's proof: logit by 0.81 (at most 0.3)"
PASSWORD = "correct horse battery staple"


def token_of(user: User) -> dict[str, str]:
    """The header that makes a request this user's."""
    with session_scope() as s:
        return {"Authorization": f"Bearer {tokens.issue_token(s, user, 'test')}"}


class StrictClient(FlaskClient):
    """A client that checks what Flask's does not: the server cannot send a header in any script."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        answer = super().open(*args, **kwargs)
        assert str(answer.headers).isascii()
        return answer


class Api:
    """A program that speaks the API with a token."""

    def __init__(self, app: APIFlask, user: User) -> None:
        self.client: FlaskClient = app.test_client()
        self.headers = token_of(user)

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        headers = self.headers | kwargs.pop("headers", {})
        return self.client.get(f"/api/v1{path}", headers=headers, **kwargs)

    def post(self, path: str, **kwargs: Any) -> TestResponse:
        headers = self.headers | kwargs.pop("headers", {})
        return self.client.post(f"/api/v1{path}", headers=headers, **kwargs)

    def put(self, path: str, **kwargs: Any) -> TestResponse:
        return self.client.put(f"/api/v1{path}", headers=self.headers, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> TestResponse:
        return self.client.delete(f"/api/v1{path}", headers=self.headers, **kwargs)

    def submit(self, *files: tuple[str, bytes], key: str | None = None, **fields: str) -> TestResponse:
        """Post a submission of (name, bytes) files."""
        data: dict[str, Any] = {"files": [(io.BytesIO(content), name) for name, content in files], **fields}
        return self.post("/jobs", data=data, headers={"Idempotency-Key": key} if key else {})


class Browser:
    """A browser without scripts: it keeps cookies and sends a page's CSRF token with its forms."""

    def __init__(self, app: APIFlask) -> None:
        self.client: FlaskClient = app.test_client()

    def csrf(self, page: str = "/sign-in") -> str:
        text = self.client.get(page, follow_redirects=True).text
        return text.split('name="csrf-token" content="')[1].split('"')[0]

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.client.get(path, **kwargs)

    def post(self, path: str, data: dict[str, Any] | None = None, **kwargs: Any) -> TestResponse:
        return self.client.post(path, data={"csrf_token": self.csrf()} | (data or {}), **kwargs)

    def sign_in(self, name: str, password: str = PASSWORD, **fields: str) -> TestResponse:
        return self.post("/sign-in", {"name": name, "password": password, **fields})


class WorkerPart:
    """Does to jobs what ingest and inference workers do, through the same functions of db, with made-up pixels."""

    def __init__(self) -> None:
        self.pixels: NDArray[np.uint8] | None = None
        """uint8[k, 224, 224] to take slices from in turn; noise if None."""
        self.notes: tuple[str, ...] = ()
        """Of the slices that are read."""
        self._claim: tuple[Upload, Claim] | None = None
        self._read = 0

    def start(self) -> None:
        """Claim the next upload."""
        with session_scope() as s:
            claim = queue.claim_upload(s, "worker")
            assert claim is not None
            self._claim = (s.get_one(Upload, claim.id, populate_existing=True), claim)
        self._read = 0

    def read(self, count: int, *, series: str = "series a", names: str = "{}.png") -> None:
        """Read `count` slices and publish them as one chunk."""
        upload, claim = self._now()
        array = self._array(count)
        buffer = io.BytesIO()
        np.save(buffer, array)
        sha256 = storage().put(buffer.getvalue())
        rows = [self._row(self._read + i, i, names, series, array[i]) for i in range(count)]
        self._read += count
        with session_scope() as s:
            recording.record_read(s, claim, upload, rows, sha256)

    def reject(self, name: str, reason: str, detail: str | None = None) -> None:
        """Reject one file."""
        upload, claim = self._now()
        row = ReadSlice(self._read, 0, name, Outcome.REJECTED, reason=reason, detail=detail)
        self._read += 1
        with session_scope() as s:
            recording.record_read(s, claim, upload, [row], None)

    def finish_reading(self, error: str | None = None) -> None:
        """Close the upload."""
        upload, claim = self._now()
        with session_scope() as s:
            recording.close_upload(s, claim, upload, error)

    def predict(self, probabilities: list[float] | None = None, engine: str = "openvino-f32") -> int:
        """Predict one waiting chunk; how many slices it had."""
        with session_scope() as s:
            claimed = queue.claim_chunks(s, "worker", 1)
            if not claimed:
                claimed = queue.claim_chunks(s, "worker", 1_000_000)[:1]
        if not claimed:
            return 0
        chunk, claim = claimed[0]
        with read_scope() as s:
            ids = s.scalars(select(Slice.id).where(Slice.chunk_id == chunk.id).order_by(Slice.id)).all()
        scored = [
            _score(id_, (probabilities or [0.93, 0.08])[i % len(probabilities or "ab")]) for i, id_ in enumerate(ids)
        ]
        with session_scope() as s:
            recording.record_predictions(s, claim, chunk, engine, scored)
        return len(scored)

    def lose_slice(self) -> None:
        """Claim the next slice three times and never report: then it is quarantined."""
        for _ in range(3):
            with session_scope() as s:
                _, claim = queue.claim_chunks(s, "worker", 1)[0]
            with session_scope() as s:
                chunks.fail_chunk(s, claim, "worker_lost")

    def whole_job(self, count: int = 4) -> None:
        """Read and predict the next upload to its end."""
        self.start()
        self.read(count)
        self.finish_reading()
        while self.predict():
            pass

    def _now(self) -> tuple[Upload, Claim]:
        assert self._claim is not None
        return self._claim

    def _array(self, count: int) -> NDArray[np.uint8]:
        if self.pixels is None:
            seed = [self._now()[0].id, self._read]  # noise is never the same twice
            return np.random.default_rng(seed).integers(0, 255, (count, 224, 224), dtype=np.uint8)
        return self.pixels[(self._read + np.arange(count)) % len(self.pixels)]

    def _row(self, ordinal: int, row: int, names: str, series: str, pixels: NDArray[np.uint8]) -> ReadSlice:
        return ReadSlice(
            ordinal,
            0,
            names.format(ordinal),
            Outcome.OPEN,
            sha256=f"{ordinal:064x}",
            pixels_sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
            format="PNG",
            mode="L",
            notes=self.notes,
            width=512,
            height=512,
            array_row=row,
            series_uid=f"folder:{series}",
            series_label=series,
        )


def _score(slice_id: int, probability: float) -> PredictedSlice:
    cam = np.zeros((7, 7), np.float32)
    cam[2 + slice_id % 3, 2 + slice_id % 4] = 1
    cam[3, 3] = 0.5
    logit = float(np.log(probability / (1 - probability)))
    return PredictedSlice(slice_id, logit, probability, probability >= 0.5, cam_bytes(cam))


def ready_dataset(name: str, groups: int = 12, slices: int = 5, **report: Any) -> int:
    """A dataset as a worker leaves it, of groups of one class each; its id."""
    rows = [
        {
            "ordinal": row,
            "row": row,
            "name": f"patient {row // slices}/{row}.png",
            "label": row // slices % 2,
            "group": f"patient {row // slices}",
            "pixels_sha256": f"{name} {row}",
            "cluster": row,
        }
        for row in range(groups * slices)
    ]
    half = len(rows) // 2
    counts = {"COVID": half, "non-COVID": len(rows) - half, "rejected": 0}
    told = {"counts": counts, "groups": {"count": groups}, "warnings": []} | report
    with session_scope() as s:
        file = jobs.ReceivedFile(f"{name}.zip", "5" * 64, 10, "zip", len(rows))
        dataset_id = datasets.create_dataset(s, name=name, user=None, files=[file]).id
    with session_scope() as s:
        claimed = datasets.claim_dataset(s, "worker")
        assert claimed is not None
        datasets.finish_dataset(
            s, claimed[1], rows, size=len(rows), sha256=f"{dataset_id:064x}", arrays=[], report=told
        )
    return dataset_id


def load_engines(version_id: int, host: str, **passed: bool) -> None:
    """Record one load of a model version that tried OpenVINO's engines of these precisions, in this order."""
    results = [
        {
            "host": host,
            "processor": "Xeon (AVX-512), 4 cores",
            "engine": f"openvino-{precision}",
            "precision": precision,
            "passed": good,
            "largest_difference": 0.0041 if good else 0.31,
            "seconds": 1.5,
            "text": f"openvino-{precision} {HOLDS if good else DIFFERS}",
        }
        for precision, good in passed.items()
    ]
    with session_scope() as s:
        engine_proofs.record_load(s, version_id, results)


def end_workers(host: str, seconds_ago: float = engine_proofs.GONE_SECONDS) -> None:
    """Let the last inference worker of a host have ended this long ago."""
    with session_scope() as s:
        gone = update(EngineProof).where(EngineProof.host == host)
        s.execute(gone.values(seen_at=from_now(-seconds_ago)))


def resnet50(path: Path) -> Path:
    """A file with arrays of the shapes of Keras's ResNet50, as far as it is looked into where a run is launched."""
    with h5py.File(path, "w") as file:
        for shape, count in base_shapes().items():
            for number in range(count):
                file.create_dataset(f"{shape}-{number}", shape, "f4")
    return path
