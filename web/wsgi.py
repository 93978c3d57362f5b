"""The application that gunicorn serves: `web.wsgi:app`."""

from db import logs
from web.app import create_app

app = create_app()
logs.configure("web")
