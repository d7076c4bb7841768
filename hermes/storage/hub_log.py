"""Hides what huggingface_hub prints about each attempt that fails: what comes of it is said."""

import logging
import re

__all__ = ["hide_retries"]

RETRIES = re.compile(r"^Retrying in |before retry \[Retry|thrown while requesting ")


def hide_retries() -> None:
    """Keep the raw lines of huggingface_hub about its attempts out of a program's output."""
    logger = logging.getLogger("huggingface_hub.utils._http")
    if _is_no_retry not in logger.filters:
        logger.addFilter(_is_no_retry)


def _is_no_retry(record: logging.LogRecord) -> bool:
    """Whether a line is about something else than an attempt that failed."""
    said = record.getMessage()
    return not (RETRIES.search(said) and record.levelno == logging.WARNING)
