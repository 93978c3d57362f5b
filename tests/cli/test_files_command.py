"""`ctbatch files`: unused files to the trash and back, and a storage taken over by another database."""

import json
import os
import time

import pytest

from db.storage import storage


@pytest.mark.slow
def test_unused_files_go_to_the_trash_and_come_back(ctbatch, database):
    env = {"CTBATCH_HOME": str(database.home), "CTBATCH_ORPHAN_SECONDS": "0"}
    sha256 = storage().put(b"nobody's")
    assert json.loads(ctbatch("files", "reap", "--json", env=env).stdout)["trashed"] == 1
    assert not storage().exists(sha256)
    assert json.loads(ctbatch("files", "restore", "--json", env=env).stdout) == {"restored": 1}
    assert storage().exists(sha256)
    assert ctbatch("files", "reap", env=env).returncode == 0
    assert ctbatch("files", "purge", env=env, stdin="n\n").returncode != 0
    assert json.loads(ctbatch("files", "purge", "--yes", "--json", env=env).stdout) == {"deleted": 1}
    assert json.loads(ctbatch("files", "restore", "--json", env=env).stdout) == {"restored": 0}


@pytest.mark.slow
def test_storage_with_older_files_is_refused_until_it_is_adopted(ctbatch, database):
    env = {"CTBATCH_HOME": str(database.home)}
    then = time.time() - 3 * 24 * 3600
    os.utime(storage().local_path(storage().put(b"somebody's")), (then, then))
    assert ctbatch("files", "reap", env=env).returncode == 1
    assert ctbatch("files", "adopt", env=env).returncode == 0
    assert ctbatch("files", "reap", env=env).returncode == 0


@pytest.mark.slow
def test_very_many_unused_files_are_moved_only_when_a_person_says_so(ctbatch, database):
    env = {"CTBATCH_HOME": str(database.home), "CTBATCH_ORPHAN_SECONDS": "0"}
    for number in range(101):
        storage().put(str(number).encode(), durable=False)
    refused = ctbatch("files", "reap", env=env)
    assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
    moved = ctbatch("files", "reap", "--yes", "--json", env=env)
    assert moved.returncode == 0, moved.stderr
    assert json.loads(moved.stdout)["trashed"] == 101
