"""Model versions, their packages, and which version is champion."""
