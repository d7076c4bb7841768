"""huggingface_hub, imported when it is needed, with its errors translated to ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hermes.errors import HermesError, StorageError, explain_os_error
from hermes.storage.hub_log import hide_retries

__all__ = ["require_hub", "translate_hub_errors"]

DENIED = (401, 403)


def require_hub() -> Any:
    """Import huggingface_hub. Raises HermesError if it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as error:
        raise HermesError(
            f"models on the Hub need huggingface_hub, which is not installed ({error}); "
            "pip install 'hermes-llm[hub]'"
        ) from None
    hide_retries()
    return huggingface_hub


@contextmanager
def translate_hub_errors(what: str, repo: str) -> Iterator[None]:
    """Run a block and raise any error of the Hub as one sentence of ours.

    The text of its errors is not passed on, because it could contain a token. what: the subject of
    the sentence; repo: where access is requested. Raises HermesError, StorageError.
    """
    try:
        yield
    except HermesError:
        raise
    except Exception as error:  # several libraries raise here, and releases differ in what
        raise _translate_error(error, what, repo) from None


def _translate_error(error: Exception, what: str, repo: str) -> HermesError:
    from huggingface_hub import errors

    access = "give a token that may, in HF_TOKEN or by 'hf auth login'"
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.GatedRepoError():
            return HermesError(f"{what} is gated; ask for access to {repo}, and {access}")
        case errors.RevisionNotFoundError():
            return HermesError(f"{what}: {repo} has no such revision")
        case errors.RepositoryNotFoundError():
            return HermesError(
                f"{what}: no such model, or a private one; check the name, or {access}"
            )
        case errors.LocalTokenNotFoundError():
            return HermesError(f"{what}: no token; {access}")
        case errors.HFValidationError():
            return HermesError(f"{what}: no name of a repository, which is OWNER/REPO")
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return StorageError(f"{what}: the Hub is out of reach")
        case errors.HfHubHTTPError() if status in DENIED:
            return HermesError(f"{what}: the Hub does not permit it; {access}")
        case errors.HfHubHTTPError():
            return StorageError(f"{what}: the Hub answered {status}")
        case OSError() if error.errno is not None:
            return StorageError(f"{what}: {explain_os_error(error)}")
    return StorageError(f"{what}: the connection to the Hub failed ({type(error).__name__})")
