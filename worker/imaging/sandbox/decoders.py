"""The decoders of a pool: starts them, counts their processor time, and ends them."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from worker.imaging.formats.decode import DecodeLimits
from worker.imaging.rejections import DecoderUnavailable
from worker.imaging.sandbox.decoder_process import Decoder, describe_end

logger = logging.getLogger(__name__)

_START_ATTEMPTS = 3


class Decoders:
    """The decoders that run now (`running`).

    `unfiltered`: why the decoder that started last has no system call filter.

    Decoders die with the thread that starts them (`linux_process`). So that thread lives until `close()`.
    """

    def __init__(self, limits: DecodeLimits, function: str, *, filter_required: bool) -> None:
        self._limits, self._function, self._filter_required = limits, function, filter_required
        self.running: list[Decoder] = []
        self.unfiltered: str | None = None
        self._past_cpu_seconds = 0.0  # used by decoders that were ended
        self._starter = ThreadPoolExecutor(1, "decoder-starter")
        self._spare: Future[Decoder] | None = None
        self._failed_starts = 0
        self._has_warned = False

    def start_ahead(self) -> None:
        """Start a decoder in the background, for the next call of `start`."""
        if self._spare is None:
            self._spare = self._starter.submit(self._new)

    def start(self) -> Decoder:
        """Start a decoder, or take the one that was started ahead. Raises DecoderUnavailable."""
        starting, self._spare = self._spare or self._starter.submit(self._new), None
        try:
            decoder = starting.result()
        except OSError as error:
            raise DecoderUnavailable(f"no decoder could be started: {error}") from error
        self.running.append(decoder)
        return decoder

    def _new(self) -> Decoder:
        return Decoder(self._limits, self._function, filter_required=self._filter_required)

    def welcome(self, decoder: Decoder) -> None:
        """Check a decoder that has become ready. Raises DecoderUnavailable if it lacks a filter that is required."""
        self._failed_starts = 0
        self.unfiltered = decoder.unfiltered
        if decoder.unfiltered and self._filter_required:
            self.end_all()
            raise DecoderUnavailable(
                f"decoders cannot be confined by a system call filter: {decoder.unfiltered}; use another machine, or"
                " set CTBATCH_ALLOW_UNFILTERED_DECODERS=true if you trust every file"
            )
        if decoder.unfiltered and not self._has_warned:
            self._has_warned = True
            logger.warning("decoders run without a system call filter: %s; only their limits hold", decoder.unfiltered)

    def end(self, decoder: Decoder) -> int:
        """End a decoder. Return its exit code (negative: a signal)."""
        self.running.remove(decoder)
        self._past_cpu_seconds += decoder.cpu_seconds()
        return decoder.put_down()

    def count_failed_start(self, code: int) -> None:
        """Note that a decoder ended with this exit code before it was ready.

        Raises DecoderUnavailable if this is the third in a row.
        """
        self._failed_starts += 1
        if self._failed_starts >= _START_ATTEMPTS:
            raise DecoderUnavailable(f"decoders do not start. {describe_end(code)}")

    def end_all(self) -> None:
        """End all decoders except the one that was started ahead."""
        while self.running:
            self.end(self.running[-1])

    def close(self) -> None:
        """End all decoders, and the thread that started them."""
        self.end_all()
        if self._spare is not None and not self._spare.exception():
            self._spare.result().put_down()
        self._starter.shutdown()

    def cpu_seconds(self) -> float:
        """Return the processor time that all decoders have used so far."""
        return self._past_cpu_seconds + sum(decoder.cpu_seconds() for decoder in self.running)
