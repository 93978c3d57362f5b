#!/usr/bin/env bash
# SQLAlchemy 2.1.9 sends an ARRAY(JSON) of lists as a deeper array of their items: two documents become one string each.
#
# A bulk insert sends a JSON column as one array, unnest(CAST(:notes AS JSON[])), and each row's document is a list of
# codes. ARRAY looks at the first value, takes its list for a second dimension, and makes JSON of the strings inside.
# With one code a row nothing fails: unnest gives as many rows, each with a string in place of a list. Rows of different
# lengths fail in the server (malformed array). With dimensions=1 each list stays a document. Documents that are
# objects are never taken apart, so the fault shows only for lists. Seen, as what the driver gets:
#   ARRAY(JSON): [['"a"'], ['"b"']]
#   ARRAY(JSON, dimensions=1): ['["a"]', '["b"]']
#
# What follows for whoever sends JSON columns as arrays: always state dimensions=1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install SQLAlchemy==2.1.9 'psycopg[binary]==3.3.9'

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import json

from sqlalchemy import ARRAY, JSON, create_engine

dialect = create_engine("postgresql+psycopg://").dialect


def shown(value):
    return [shown(one) for one in value] if isinstance(value, list) else json.dumps(value.obj)


for name, kind in (("ARRAY(JSON)", ARRAY(JSON)), ("ARRAY(JSON, dimensions=1)", ARRAY(JSON, dimensions=1))):
    send = kind.dialect_impl(dialect).bind_processor(dialect)
    print(f"{name}: {shown(send([['a'], ['b']]))}")
PYTHON
grep -qF "ARRAY(JSON): [['\"a\"'], ['\"b\"']]" "$folder/seen"
grep -qF "ARRAY(JSON, dimensions=1): ['[\"a\"]', '[\"b\"]']" "$folder/seen"
