"""Runs systems that people could use instead of ctbatch. They get the same weights and slices, and write the same rows.

`notebook`, `celery_tasks`, `bentoml_service`, `litserve_api` and `ray_data` each run in an environment of their own,
which `make peers` makes. Of ctbatch, they import only `network`, `exchange` and `over_http`. The other modules run them
and compare them with ctbatch.
"""
