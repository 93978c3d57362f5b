"""Runs the peers: systems that people could use instead of ctbatch.

A peer gets the same weights and slices as ctbatch, and writes the same rows.

The peers are `notebook`, `celery_tasks`, `bentoml_service`, `litserve_api` and `ray_data`. Each peer runs in its own
environment, which `make peers` makes. From ctbatch, a peer imports only `network`, `exchange` and `over_http`. The
other modules run the peers and compare them with ctbatch.
"""
