"""Code that makes a model version for the fake engine in the home of the process that runs it."""

ADD_VERSION = """
import json, sys
from pathlib import Path
from db.registry import champions, versions
from db.database import session_scope

folder = Path(sys.argv[1])
folder.mkdir()
package = dict(name="fake", note="fake engine: for tests only", recipe="lung-224-v1", threshold=0.5, temperature=1.0,
               files={}, metrics={}, parity={}, dataset_hash=None, created_at="2026-01-01T00:00:00+00:00", extra={})
(folder / "package.json").write_text(json.dumps(package))
stored = versions.store_package(folder)
with session_scope() as s:
    versions.register_package(s, stored)
"""
ADD_CHAMPION = ADD_VERSION.replace(
    "    versions.register_package(s, stored)",
    "    champions.record_promotion(s, versions.register_package(s, stored), None, 'for the test')",
)
