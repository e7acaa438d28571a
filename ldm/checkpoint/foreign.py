"""Recognises files that are no checkpoints by their first bytes, so that the error message can say what to do."""

import re

HEAD_BYTES = 512
"""How much of a file's beginning is examined."""

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'"),
    (b"GGUF", "a GGUF file, whose weights are quantized; get the model as safetensors in the original layout"),
    (b"\x89HDF\r\n", "a Keras or HDF5 file; get the model as safetensors in the original layout"),
    (b"\x89PNG\r\n", "a PNG image, not a checkpoint"),
    (b"\xff\xd8\xff", "a JPEG image, not a checkpoint"),
    (b"RIFF", "an image or a sound, not a checkpoint"),
    (b"%PDF", "a PDF document, not a checkpoint"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
)
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte-order marks and the encoding that each means."""

_WENT_WRONG = "the download went wrong: open its address in a browser to see why, and fetch the file again"


def describe_foreign(head: bytes) -> str:
    """Describes a file by its `head`, and says what to do; empty if unknown. `head`: its first `HEAD_BYTES`, or all."""
    if not head:
        return f"empty (0 bytes): {_WENT_WRONG}"
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if not head.strip(b"\0"):
        return f"nothing but zero bytes where it begins: {_WENT_WRONG}"
    if head[257:262] == b"ustar":
        return "a tar file: unpack it, or, if it was written by torch before 0.1.10, save it again with a newer torch"
    if re.match(rb"\x08[\x01-\x20][\x12\x1a\x22\x3a]", head):
        return "an ONNX model; get the model as safetensors in the original layout"
    return _describe_text(head)


def _describe_text(head: bytes) -> str:
    """The kind of text with its first words; empty if `head` is not text."""
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")
    text = head.decode(encoding, errors="ignore" if len(head) == HEAD_BYTES else "replace").strip()
    if "\ufffd" in text or not all(letter.isprintable() or letter.isspace() for letter in text):
        return ""
    lower = text.lower()
    if lower.startswith("<") and re.search(r"<(!doctype html|html|head|body)\b", lower):
        return f"a web page, not a checkpoint; {_WENT_WRONG}"
    kind = "XML" if lower.startswith("<") else "JSON" if lower.startswith(("{", "[")) else ""
    shown = " ".join(text.split())
    words = f" ({shown[:80]}{'...' if len(shown) > 80 else ''})" if shown else ""
    return f"{kind + ' ' if kind else ''}text{words}, not a checkpoint; {_WENT_WRONG}"
