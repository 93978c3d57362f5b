"""What a text of /proc/cpuinfo says about a processor, in words."""

import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from db.settings import Settings
from worker import decoding
from worker.engines import openvino, processor
from worker.engines.processor import Processor, expectation, read_processor

CORE = """\
processor\t: {number}
vendor_id\t: {vendor}
cpu family\t: {family}
model\t\t: {model}
model name\t: {name}
stepping\t: {stepping}
flags\t\t: fpu sse4_2 {flags}
bugs\t\t: spectre_v1
"""
ZEN_4 = "avx2 avx512f avx512_vnni avx512_bf16"
SAPPHIRE = ZEN_4 + " avx_vnni amx_bf16 amx_tile amx_int8"
ARM = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd sve i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd40

processor\t: 1
Features\t: fp asimd sve i8mm bf16
"""


def cpuinfo(vendor="AuthenticAMD", family=25, model=17, name="AMD EPYC", stepping=1, flags="", cores=2):
    facts = {"vendor": vendor, "family": family, "model": model, "name": name, "stepping": stepping, "flags": flags}
    return "\n".join(CORE.format(number=number, **facts) for number in range(cores))


def test_one_line_says_what_the_processor_is_and_has():
    read = read_processor(cpuinfo(name="AMD EPYC 9R14 96-Core Processor", flags=ZEN_4))
    assert read == Processor("AMD EPYC 9R14 (Zen 4)", 2, ("AVX2", "AVX-512", "VNNI", "bfloat16"))
    assert read.line == "AMD EPYC 9R14 (Zen 4), 2 cores: AVX2, AVX-512, VNNI, bfloat16"
    assert Processor("x", 1, ()).line == "x, 1 core"


@pytest.mark.parametrize(
    ("vendor", "family", "model", "stepping", "name"),
    [
        ("AuthenticAMD", 23, 49, 0, "Zen 2"),
        ("AuthenticAMD", 25, 1, 1, "Zen 3"),
        ("AuthenticAMD", 25, 80, 0, "Zen 3"),
        ("AuthenticAMD", 25, 17, 1, "Zen 4"),
        ("AuthenticAMD", 25, 97, 2, "Zen 4"),
        ("AuthenticAMD", 25, 160, 2, "Zen 4"),
        ("AuthenticAMD", 26, 2, 1, "Zen 5"),
        ("GenuineIntel", 6, 79, 1, "Broadwell"),
        ("GenuineIntel", 6, 85, 4, "Skylake-SP"),
        ("GenuineIntel", 6, 85, 7, "Cascade Lake"),
        ("GenuineIntel", 6, 106, 6, "Ice Lake"),
        ("GenuineIntel", 6, 143, 8, "Sapphire Rapids"),
        ("GenuineIntel", 6, 207, 2, "Emerald Rapids"),
        ("GenuineIntel", 6, 173, 1, "Granite Rapids"),
    ],
)
def test_microarchitecture_is_named_where_it_is_known(vendor, family, model, stepping, name):
    read = read_processor(cpuinfo(vendor, family, model, "Some Name", stepping))
    assert read.name == f"Some Name ({name})"


def test_unknown_microarchitecture_is_left_out():
    assert read_processor(cpuinfo(family=99)).name == "AMD EPYC"
    assert read_processor(cpuinfo("GenuineIntel", 6, 85, "Xeon", stepping=9)).name == "Xeon"


@pytest.mark.parametrize(
    ("given", "short"),
    [
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel Xeon"),
        ("Intel(R) Xeon(R) Platinum 8488C", "Intel Xeon Platinum 8488C"),
        ("Intel(R) Core(TM) i7-1185G7 CPU @ 3.00GHz", "Intel Core i7-1185G7"),
        ("AMD EPYC 7R13 Processor", "AMD EPYC 7R13"),
    ],
)
def test_name_loses_its_marks_and_clock(given, short):
    assert read_processor(cpuinfo(family=99, name=given)).name == short


def test_arm64_is_described_without_a_model_name(monkeypatch):
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert read_processor(ARM).line == "aarch64 (Neoverse V1), 2 cores: NEON, SVE, I8MM"


@pytest.mark.parametrize("text", ["", "\n\n", "nonsense", "model : x\nflags"])
def test_damaged_text_gives_a_name_all_the_same(text):
    read = read_processor(text)
    assert read.name
    assert (read.cores, read.features) == (1, ())


def test_machine_without_cpuinfo_gives_the_name_of_its_platform(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr("platform.processor", lambda: "arm")
    read_processor.cache_clear()
    assert read_processor() == Processor("arm", len(os.sched_getaffinity(0)), ())
    read_processor.cache_clear()


def test_cpu_limit_of_a_container_decides_the_decoders_and_the_threads_of_the_engine(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is not in the affinity: with a limit of one core, a container still runs on all cores."""
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    options: dict[str, object] = {}
    core = SimpleNamespace(read_model=lambda _: None, compile_model=lambda *arguments: options.update(arguments[-1]))
    monkeypatch.setattr(openvino.ov, "Core", lambda: core)
    monkeypatch.setattr(openvino, "_check_weights", lambda _: None)
    with suppress(AttributeError):  # of the network that was not compiled
        openvino.OpenVinoEngine(Path("model.xml"), "int8", None)
    assert (options["INFERENCE_NUM_THREADS"], options["NUM_STREAMS"], options["ENABLE_CPU_PINNING"]) == (1, "1", False)
    monkeypatch.setattr(decoding, "DecoderPool", lambda size, *_, **__: size)
    assert decoding.new_decoders() == 1


@pytest.mark.parametrize(
    ("flags", "speed", "training_is_slow"),
    [
        (SAPPHIRE, "425 to 461", False),
        (ZEN_4, "85 to 94", False),
        ("avx2 avx_vnni", "85 to 94", True),
        ("avx2", "28 to 36", True),
        ("sse4_2", "bench pipeline", True),
    ],
)
def test_expectation_rests_on_what_the_processor_has(flags, speed, training_is_slow):
    line = expectation(read_processor(cpuinfo(flags=flags)))
    assert speed in line
    assert ("2 to 4 times" in line) == training_is_slow
