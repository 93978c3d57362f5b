"""This machine's copies of packages: checked when they are made, and removed when they take too much room."""

import os
import time
from collections.abc import Callable

import pytest

from db import database as base
from db.models import ModelVersion
from db.registry.versions import package_folder
from db.settings import Settings

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def test_copies_used_longest_ago_make_room(database: Settings, new_champion: Callable[[str], ModelVersion]) -> None:
    base.use(database.model_copy(update={"cache_bytes": 1}))
    oldest, unused, used = (package_folder(new_champion(name)) for name in ("oldest", "unused", "used"))
    for hours, folder in ((5, oldest), (2, unused)):
        os.utime(folder, (time.time() - 3600 * hours,) * 2)
    newest = package_folder(new_champion("newest"))
    assert [folder.exists() for folder in (oldest, unused, used, newest)] == [False, False, True, True]


def test_copy_in_use_is_young_again(database: Settings, new_champion: Callable[[str], ModelVersion]) -> None:
    version = new_champion("used")
    folder = package_folder(version)
    os.utime(folder, (time.time() - 7200,) * 2)
    assert package_folder(version) == folder
    assert folder.stat().st_mtime > time.time() - 3600
