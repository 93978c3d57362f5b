"""The registry: model versions, their packages, and which one is champion."""
