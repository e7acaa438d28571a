"""Why something did not come from the Hub, in words for the user, and whether the same request may succeed later."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError

from ldm.disk import human_size
from ldm.errors import UserError

LIBRARY_ERROR = HfHubHTTPError.__bases__[0]
"""What all errors of the library below `huggingface_hub` are: httpx's. Before 1.0 it was requests, with `OSError`s."""

CAUGHT: tuple[type[Exception], ...] = (LIBRARY_ERROR, OSError, ValueError)
"""The last is an answer that is not the Hub's kind of JSON, or a proxy's address that is none."""

BUSY = (408, 425, 429)
"""HTTP statuses below 500 that pass by themselves."""

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Attempt:
    """A request for a file, and the part of it that has arrived."""

    url: str
    repo: str
    repo_type: str
    part: Path | None = None
    is_known: bool = False
    """Whether its hash is, so that it may come by another way."""

    @property
    def arrived(self) -> int:
        """In bytes."""
        return self.part.stat().st_size if self.part is not None and self.part.exists() else 0

    @property
    def notes(self) -> str:
        """What else the user should know: a mirror is used, a part is kept."""
        mirror = f"\n  (HF_ENDPOINT is set, to {constants.ENDPOINT}.)" if constants.ENDPOINT != HUB else ""
        if self.part is None or not self.arrived:
            return mirror
        return f"{mirror}\n  {self.part.name} ({human_size(self.arrived)}) is kept: the same command continues it."


def check_environment() -> None:
    """Raises `UserError` for a value of a variable that no request can be made with."""
    try:
        parts = urlsplit(constants.ENDPOINT)
    except ValueError:  # half a bracket
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc or not constants.ENDPOINT.isascii():
        raise UserError(f"HF_ENDPOINT should be an address such as {HUB}, not '{constants.ENDPOINT}'")
    token = get_token() or ""
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError("HF_TOKEN (or the token of `hf auth login`) should be letters, digits and _ only: hf_...")


def http_status(error: Exception) -> int | None:
    """Of the answer that the error is about, if there was one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed in a few seconds."""
    if (status := http_status(error)) is not None:
        return status in BUSY or status >= 500
    return not (_is_of_the_disk(error) or _is_certificate(error) or isinstance(error, ValueError))


def explained(error: Exception, attempt: Attempt) -> Exception:
    """The user's error for what ended the last attempt. What is wrong with the disk stays as it is."""
    if _is_of_the_disk(error):
        return error
    if (status := http_status(error)) is not None:
        return UserError(_refused(status, attempt) + attempt.notes)
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    host = _host(error, attempt)
    if isinstance(error, ValueError):
        words = f"{attempt.url} gave no answer of the Hub's kind ({reason}).\n  Is there a proxy that wants a login?"
    elif _is_certificate(error):
        words = (
            f"the certificate of {host} was not accepted. Does a proxy read the traffic?\n"
            "  Then set SSL_CERT_FILE and REQUESTS_CA_BUNDLE to the file with its certificate."
        )
    else:
        words = (
            f"the connection to {host} failed ({reason}).\n"
            "  Is there a network? Behind a proxy, set https_proxy. Else run this again later, or name a mirror where\n"
            "  the Hub is out of reach: HF_ENDPOINT=https://<mirror>."
        )
    return UserError(words + attempt.notes)


def _refused(status: int, attempt: Attempt) -> str:
    """Words for an HTTP status. A licence is accepted on the Hub itself, not on a mirror."""
    host = urlsplit(attempt.url).netloc
    page = f"{HUB}/{'datasets/' * (attempt.repo_type == 'dataset')}{attempt.repo}"
    if status in (401, 403) and get_token():
        return (
            f"{host} does not let your token read {attempt.repo} (HTTP {status}).\n"
            f"  Is it still valid (HF_TOKEN, or `hf auth login`), and has its owner accepted the licence on {page}?"
        )
    if status in (401, 403):
        return (
            f"{host} asks for a login to read {attempt.repo} (HTTP {status}).\n"
            f"  1. Log in and accept the licence on  {page}\n"
            f"  2. Make a token with read access on  {HUB}/settings/tokens\n"
            "  3. Run this again with               HF_TOKEN=hf_... in front, or after `hf auth login`"
        )
    if status == 404:
        return f"there is no {attempt.url} (HTTP 404)."
    if status == 429:
        return (
            f"{host} has had too many requests from here (HTTP 429).\n"
            "  Wait some minutes and run this again; with HF_TOKEN set the Hub allows more."
        )
    return f"{host} answered HTTP {status} for {attempt.url}.\n  Run this again later, or name a mirror by HF_ENDPOINT."


def _host(error: Exception, attempt: Attempt) -> str:
    """The host of the last request: the Hub redirects to a store."""
    url = attempt.url
    with suppress(AttributeError, RuntimeError):  # httpx raises the latter where there is no request
        url = str(error.request.url)  # type: ignore[attr-defined]
    return urlsplit(url).netloc


def _is_of_the_disk(error: Exception) -> bool:
    """Errors of the network have no number: the library below keeps it for itself."""
    return isinstance(error, OSError) and error.errno is not None


def _is_certificate(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)
