"""Model versions, their packages, and the champion."""
