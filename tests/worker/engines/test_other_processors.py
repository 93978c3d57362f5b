"""The demo model on a processor that this machine is not: QEMU emulates it, and OpenVINO computes as it would there."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from db.registry.demo_model import DEMO_FILE

PROJECT = Path(__file__).parents[3]
EMULATOR = shutil.which("qemu-x86_64")  # Debian's package qemu-user
LOAD = """
import json, sys
from pathlib import Path
from worker.engines.load import load_engine
print(json.dumps([result.as_dict() for result in load_engine(Path(sys.argv[1]), "openvino-int8", threads=1).results]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(EMULATOR is None, reason="qemu-x86_64 is not installed")
def test_demo_model_proves_itself_on_a_processor_without_avx512_and_vnni(tmp_path: Path) -> None:
    with tarfile.open(DEMO_FILE) as tar:
        tar.extractall(tmp_path, filter="data")
    # Zen 3 has AVX2, but no AVX-512, VNNI or bfloat16.
    command = [str(EMULATOR), "-cpu", "EPYC-Milan", sys.executable, "-c", LOAD, str(tmp_path)]
    ended = subprocess.run(command, cwd=PROJECT, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (result,) = json.loads(ended.stdout.splitlines()[-1])
    assert result["passed"]
    assert 0 < result["largest_difference"] < 0.01
