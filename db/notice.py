"""The one sentence that every page and every export carries."""

RESEARCH_USE_ONLY = "Research use only, not for diagnosis."
