"""How an error of the operating system reads within a sentence."""

import errno
import os

import pytest

from hermes.errors import StorageError, describe_error, explain_os_error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "A"), "no such file or directory"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "input/output error"),
        (OSError(72, "RPC struct is bad"),
         "RPC struct is bad"),
        (OSError("Forbidden: https://host/Data"), "forbidden: https://host/Data"),
        (OverflowError("bind(): port must be 0-65535."), "bind(): port must be 0-65535."),
    ],
)  # fmt: skip
def test_a_systems_reason_stands_within_a_sentence(error, reason):
    """Names and abbreviations keep their capitals."""
    assert explain_os_error(error) == reason


def test_an_error_is_described_with_the_file_that_it_is_about():
    error = OSError(errno.EACCES, os.strerror(errno.EACCES), "Text.txt")
    assert describe_error(error) == "Text.txt: permission denied"
    assert describe_error(OSError(errno.EIO, os.strerror(errno.EIO))) == "input/output error"
    assert describe_error(StorageError("Text.txt is gone")) == "Text.txt is gone"
