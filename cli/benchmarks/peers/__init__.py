"""What people would use instead of ctbatch, on the same weights and slices, with the same rows at the end.

`notebook`, `celery_tasks`, `bentoml_service`, `litserve_api` and `ray_data` each run in an environment of their own,
made by `make peers`. These modules, `network`, `exchange` and `over_http` import nothing else of ctbatch. The other
modules run them and compare.
"""
