"""Describes the processor of this machine for people: its name, its cores, and the features that make it quick."""

import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

FEATURES = (  # name for people, and flags of /proc/cpuinfo; any of these flags shows the feature
    ("AVX2", ("avx2",)),
    ("AVX-512", ("avx512f",)),
    ("VNNI", ("avx512_vnni", "avx_vnni")),
    ("bfloat16", ("avx512_bf16", "amx_bf16")),
    ("AMX", ("amx_int8", "amx_tile")),
    ("NEON", ("asimd",)),  # this feature and the next two are of arm64
    ("SVE", ("sve",)),
    ("I8MM", ("i8mm",)),
)

MICROARCHITECTURES = {  # (vendor, family): (models, name); as the Linux kernel assigns them
    ("AuthenticAMD", 23): (
        (range(0x00, 0x30), "Zen"),
        (range(0x50, 0x60), "Zen"),
        (range(0x30, 0x50), "Zen 2"),
        (range(0x60, 0x80), "Zen 2"),
        (range(0x90, 0xB0), "Zen 2"),
    ),
    ("AuthenticAMD", 25): (
        (range(0x00, 0x10), "Zen 3"),
        (range(0x20, 0x60), "Zen 3"),
        (range(0x10, 0x20), "Zen 4"),
        (range(0x60, 0xB0), "Zen 4"),
    ),
    ("AuthenticAMD", 26): (
        (range(0x00, 0x30), "Zen 5"),
        (range(0x40, 0x50), "Zen 5"),
        (range(0x60, 0x80), "Zen 5"),
    ),
    ("GenuineIntel", 6): (
        (range(0x3F, 0x40), "Haswell"),
        (range(0x4F, 0x50), "Broadwell"),
        (range(0x6A, 0x6B), "Ice Lake"),
        (range(0x6C, 0x6D), "Ice Lake"),
        (range(0x8F, 0x90), "Sapphire Rapids"),
        (range(0xCF, 0xD0), "Emerald Rapids"),
        (range(0xAD, 0xAF), "Granite Rapids"),
    ),
}
SKYLAKE_SP = ("GenuineIntel", 6, 0x55)  # three generations have this model number; their steppings differ
SKYLAKE_SP_STEPPINGS = ((range(0, 5), "Skylake-SP"), (range(5, 8), "Cascade Lake"), (range(10, 12), "Cooper Lake"))
NEOVERSE = {0xD0C: "Neoverse N1", 0xD40: "Neoverse V1", 0xD49: "Neoverse N2", 0xD4F: "Neoverse V2"}  # part of Arm, 0x41

INT8_SPEED = (  # feature, and slices/s of the bare int8 engine on two cores if it was measured (docs/benchmarks.md)
    ("AMX", "425 to 461", "a Xeon with AMX"),
    ("VNNI", "85 to 94", "a Zen 4 with VNNI"),
    ("AVX2", "28 to 36", "a Zen 3 with AVX2 alone"),
)


@dataclass(frozen=True)
class Processor:
    """A processor. `name` ends with the microarchitecture in brackets, if it is known. `cores`: how many we may use."""

    name: str
    cores: int
    features: tuple[str, ...]

    @property
    def line(self) -> str:
        """The processor in one line, such as `AMD EPYC 9R14 (Zen 4), 2 cores: AVX2, AVX-512, VNNI, bfloat16`."""
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{self.name}, {cores}" + (f": {', '.join(self.features)}" if self.features else "")


@cache
def read_processor(cpuinfo: str | None = None) -> Processor:
    """Return the processor of this machine, or the one that `cpuinfo` describes in the form of /proc/cpuinfo.

    If the machine has no /proc/cpuinfo, the name comes from Python's `platform`, and the features are not known.
    """
    if cpuinfo is not None:
        return _parse(cpuinfo, max(1, len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))))
    try:
        text = CPUINFO.read_text(errors="replace")
    except OSError:
        text = ""
    return _parse(text, usable_cores())


def expectation(processor: Processor) -> str:
    """Return in one line how many slices/s to expect from the int8 engine, and whether training is slow here."""
    line = "speed not measured on such a processor; `ctbatch bench pipeline` measures it"
    for feature, speed, machine in INT8_SPEED:
        if feature in processor.features:
            line = f"int8 predicts {speed} slices/s per two cores (bare engine, measured on {machine})"
            break
    if "bfloat16" not in processor.features:
        line += "; training takes 2 to 4 times as long as with bfloat16"
    return line


def usable_cores() -> int:
    """Return how many cores' time this process may use: by its affinity and by the CPU limit of its container."""
    from joblib import cpu_count  # imported here, because the import takes 0.2 s

    return int(cpu_count())


def permitted_cores() -> int:
    """Return on how many cores this process may run. A CPU limit may let it use the time of fewer cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parse(text: str, cores: int) -> Processor:
    fields = _first_core(text)
    flags = set((fields.get("flags") or fields.get("features", "")).split())
    features = tuple(name for name, meant_by in FEATURES if flags.intersection(meant_by))
    name = _short(fields.get("model name", "")) or platform.processor() or platform.machine() or "unknown processor"
    microarchitecture = _microarchitecture(fields)
    return Processor(f"{name} ({microarchitecture})" if microarchitecture else name, cores, features)


def _first_core(text: str) -> dict[str, str]:
    """Return the fields of the first core in /proc/cpuinfo, by name in lower case."""
    fields: dict[str, str] = {}
    for line in text.strip().splitlines():
        if not line.strip():
            break
        name, _, value = line.partition(":")
        fields[name.strip().lower()] = value.strip()
    return fields


def _short(name: str) -> str:
    """Return a model name without (R) and clock speed: `Intel(R) Xeon(R) CPU @ 2.20GHz` becomes `Intel Xeon`."""
    bare = re.sub(r"\((R|TM)\)|@.*|\b\d+-Core\b|\b(CPU|Processor)\b", " ", name)
    return " ".join(bare.split())


def _microarchitecture(fields: dict[str, str]) -> str:
    """Return the name of the processor's generation, or "" if it is not known."""
    if _number(fields, "cpu implementer") == 0x41:
        return NEOVERSE.get(_number(fields, "cpu part"), "")
    vendor, family, model = fields.get("vendor_id", ""), _number(fields, "cpu family"), _number(fields, "model")
    if (vendor, family, model) == SKYLAKE_SP:
        return _in_range(SKYLAKE_SP_STEPPINGS, _number(fields, "stepping"))
    return _in_range(MICROARCHITECTURES.get((vendor, family), ()), model)


def _in_range(table: tuple[tuple[range, str], ...], number: int) -> str:
    return next((name for numbers, name in table if number in numbers), "")


def _number(fields: dict[str, str], name: str) -> int:
    """Return a field as a number, or -1 if it is not a number. The field may be decimal or begin with 0x."""
    try:
        return int(fields.get(name, ""), 0)
    except ValueError:
        return -1
