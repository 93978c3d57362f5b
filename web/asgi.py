"""The application that gunicorn serves: `web.asgi:app`."""

import os

from db import logs
from db.database import keep_database_open
from db.settings import get_settings
from web.app import create_app, make_front

os.umask(0o077)  # stored files are for this user alone
app = make_front(create_app(), get_settings())
logs.configure("web")
keep_database_open()
