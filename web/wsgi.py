"""The application that gunicorn serves: `web.wsgi:app`."""

import os

from db import logs
from web.app import create_app

os.umask(0o077)  # stored files are for this user alone
app = create_app()
logs.configure("web")
