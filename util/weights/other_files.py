"""What people save under the name of a checkpoint that is none: web pages, pointers, archives."""

import zipfile
from pathlib import Path

BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch that with git lfs "
    "pull",
    b"\x1f\x8b": "compressed by gzip; unpack it",
    b"BZh": "compressed by bzip2; unpack it",
    b"\xfd7zXZ": "compressed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it",
    b"\x89HDF": "an HDF5 file; save its arrays as a PyTorch state dict",
    b"\x93NUMPY": "a NumPy array; save it as a PyTorch state dict",
    b"%PDF": "a PDF file",
}
SHOWN = 60  # characters of a text


def kind_of_other_file(path: Path) -> str | None:
    """Return in words what a file is that PyTorch did not write, and what to do about it; None for
    one that PyTorch may have written.
    """
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        return "an empty file; copy it again"
    for beginning, words in BEGINNINGS.items():
        if head.startswith(beginning):
            return words
    if zipfile.is_zipfile(path):
        return _kind_of_archive(path)
    return _kind_of_text(head)


def _kind_of_archive(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program; save its state dict"
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return None
    return f"an archive of other files ({', '.join(names[:3])}); unpack it"


def _kind_of_text(head: bytes) -> str | None:
    try:
        text = head.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # the last character may be cut off
            return None
        text = head[: error.start].decode("utf-8-sig").strip()
    if not text or not all(letter.isprintable() or letter.isspace() for letter in text):
        return None
    again = "download it again, and look at what arrives"
    if text.startswith("<"):
        return f"a web page or XML text; {again}"
    if text.startswith(("{", "[")):
        return f"JSON text ({_beginning(text)}); {again}"
    return f"a text that begins {_beginning(text)}; {again}"


def _beginning(text: str) -> str:
    return repr(" ".join(text.split())[:SHOWN])
