"""Gather a root file system that holds Python, the libraries that it and an environment load, and nothing else.

    python root.py /opt/candor /root-of-image

No shell, no package manager: nothing to attack or to keep up to date, and 100 MB less. The environment itself is copied
by the Dockerfile, as a layer of its own.
"""

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

DATA = ("/etc/ssl/certs/ca-certificates.crt",)
NOT_SERVED = ("ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo", "site-packages")
PASSWD = "root:x:0:0:root:/root:/sbin/nologin\ncandor:x:10001:10001::/tmp:/sbin/nologin\n"
GROUP = "root:x:0:\ncandor:x:10001:\n"


def main() -> None:
    """Fill the root that is named second with what the environment that is named first needs."""
    environment, root = Path(sys.argv[1]), Path(sys.argv[2])
    interpreter = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    copy_python(interpreter, stdlib, root)
    for library in libraries([interpreter, *stdlib.rglob("*.so"), *environment.rglob("*.so*")]):
        copy(library, root)
    for path in DATA:
        copy(Path(path), root)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    subprocess.run(["ldconfig", "-r", root, "/usr/local/lib"], check=True)
    subprocess.run(["chroot", root, interpreter, "-c", "import ctypes, lzma, sqlite3, ssl, zoneinfo"], check=True)


def copy_python(interpreter: Path, stdlib: Path, root: Path) -> None:
    """The interpreter, the name it is called by, and the standard library with its bytecode."""
    copy(interpreter, root)
    for name in ("python3", "python"):
        link = root / interpreter.parent.relative_to("/") / name
        link.unlink(missing_ok=True)
        link.symlink_to(interpreter.name)
    target = root / stdlib.relative_to("/")
    shutil.copytree(
        stdlib, target, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SERVED, "config-3*", "__pycache__")
    )
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(target, quiet=2, stripdir=root, invalidation_mode=mode)


def libraries(binaries: Iterable[Path]) -> list[Path]:
    """Every library of the system that the binaries load, and what these load.

    Raises:
        SystemExit: where one cannot be found.
    """
    found: set[Path] = set()
    for binary in binaries:
        run = subprocess.run(["ldd", binary], capture_output=True, text=True)
        if "not found" in run.stdout:
            raise SystemExit(f"root.py: {binary} lacks a library:\n{run.stdout}")
        found.update(Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", run.stdout, re.MULTILINE))
    return sorted(path for path in found if not path.is_relative_to("/opt"))


def copy(path: Path, root: Path) -> None:
    """A file under the name it is asked for by, links followed."""
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target)


if __name__ == "__main__":
    main()
