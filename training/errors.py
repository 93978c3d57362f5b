"""What ended a training run, said to people."""

import errno


def why(error: Exception) -> str:
    """One line for people: what ended a run, and what to do."""
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "ResourceExhaustedError":
        return "the memory was not enough; lower the batch: --set stages.NAME.batch=16"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "the disk is full: make room on it, keep fewer augmented copies (--set stages.NAME.copies=1), or set "
            "CTBATCH_HOME to a folder on a larger disk"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror or name}: {error.filename or 'a file of this run'}"
    if name in ("Diverged", "NoRoom", "WeightsError", "ConfigError", "RuntimeError", "DatasetError"):
        return str(error)
    if name in ("FileMissing", "FileDamaged"):
        return f"a file of the dataset, the weights or the checkpoint is gone or damaged: {error}"
    return f"{name}: {error}"
