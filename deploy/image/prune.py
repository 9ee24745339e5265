"""Take out of an environment what candor never loads: `python prune.py /opt/candor`.

A pattern that finds nothing is an error: a new version has moved what it was about. `smoke.py` tests what is left,
in the image and in `tests/deploy/test_image.py`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

UNUSED = (
    "numpy/f2py",  # compiles Fortran
    "onnxruntime/capi/libonnxruntime.so.*",  # for programs in C; Python's module has the runtime inside
    "onnxruntime/quantization",  # these three make and convert models
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "pyarrow/_flight.*",  # Arrow's own network protocol
    "pyarrow/libarrow_flight.so*",
    "pyarrow/libarrow_python_flight.so*",
    "pyarrow/_s3fs.*",  # LanceDB speaks to object storage by itself
    "pyarrow/libarrow_s3.so*",
    "pyarrow/libarrow_python.so",  # links to `.so.NUMBER`, which a wheel holds as copies
    "pyarrow/libarrow_python.so.*.*.*",
    "pyarrow/include",  # for those who compile against them
    "pyarrow/includes",
    "pyarrow/src",
    "pyarrow/*.p[xy]*[xid]",
    "**/tests",
)
# Wheels that ship what only a debugger reads.
SYMBOLS = ("PIL/*.so", "asyncpg/**/*.so", "httptools/**/*.so", "pyarrow/*.so*", "uvloop/*.so", "yaml/*.so")


def main() -> None:
    """Prune the environment that is named."""
    site = next(Path(sys.argv[1]).glob("lib/python3*/site-packages"))
    before = size(site)
    for path in [path for pattern in UNUSED for path in found(site, pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
    for path in [path for pattern in SYMBOLS for path in found(site, pattern)]:
        bare = path.with_suffix(".bare")
        subprocess.run(["strip", "--strip-unneeded", "-o", bare, path], check=True)
        bare.replace(path)
    print(f"pruned {site}: {before / 1e6:.0f} MB -> {size(site) / 1e6:.0f} MB")


def found(site: Path, pattern: str) -> list[Path]:
    """What a pattern names; something, or the pattern is out of date."""
    paths = sorted(site.glob(pattern))
    if not paths:
        raise SystemExit(f"prune.py: nothing in {site} is {pattern!r}: take it off the list, or find its new name")
    return paths


def size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    main()
