#!/usr/bin/env bash
# psycopg 3.3.9 refuses a list that holds a float and an int, even where the statement casts it; psycopg2 2.9.11 sends it.
#
# [0.5, 2] is a column of measurements of which one happens to be a whole number: a slice's position in mm, read from a
# file as 2. A bulk insert with one array a column (unnest(%s::float8[])) works until the first such value. psycopg 3
# picks the type of an array from its items in Python, before the statement's cast is looked at, and takes only items
# of one class; ints of different sizes and None are taken. A bool among ints is refused too. Seen:
#   psycopg 3, [0.5, None, 1.5]: '{0.5,NULL,1.5}'::float8[]
#   psycopg 3, [0.5, 2]: DataError: cannot dump lists of mixed types; got: float, int
#   psycopg 3, [1, 100000000000]: '{1,100000000000}'::int8[]
#   psycopg 3, [1, True]: DataError: cannot dump lists of mixed types; got: bool, int
#   psycopg 2, [0.5, 2]: ARRAY[0.5,2]
#
# What follows for whoever sends columns as arrays: convert the values of float columns to float first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install 'psycopg[binary]==3.3.9' psycopg2-binary==2.9.11

"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import psycopg
import psycopg2.extensions
from psycopg import sql

for values in ([0.5, None, 1.5], [0.5, 2], [1, 100000000000], [1, True]):
    try:
        sent = sql.Literal(values).as_string(None)
    except psycopg.DataError as error:
        sent = f"DataError: {error}"
    print(f"psycopg 3, {values}: {sent}")
print("psycopg 2, [0.5, 2]:", psycopg2.extensions.adapt([0.5, 2]).getquoted().decode())
PYTHON
grep -q '^psycopg 3, \[0.5, 2\]: DataError' "$folder/seen"
grep -q '^psycopg 2, \[0.5, 2\]: ARRAY\[0.5,2\]' "$folder/seen"
grep -q '^psycopg 3, \[1, 100000000000\]: .{1,100000000000}' "$folder/seen"
