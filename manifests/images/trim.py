"""Takes out of an installed environment what serving never opens: tests, headers, other languages, other clouds.

`python trim.py FOLDER`: the site-packages of an image. Standard library only, because it runs while the image is built.
Prints what each rule gave back.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

#: Pattern below site-packages, and why nothing misses it.
UNUSED = (
    ("*/tests", "tests of libraries"),
    ("*/*/tests", "tests of libraries"),
    ("*/*/*/tests", "tests of libraries"),
    ("torch/test", "test programs"),
    ("torch/include", "headers, for extensions that are compiled"),
    ("torch/share", "files for CMake"),
    ("torch/bin/protoc*", "a compiler"),
    ("torch/bin/*test*", "test programs"),
    ("torch/bin/*_gtest", "test programs"),
    ("torch/lib/*test*", "test programs"),
    ("ray/jars", "Ray for Java"),
    ("ray/cpp", "Ray for C++"),
    ("ray/rllib", "reinforcement learning"),
    ("pyarrow/include", "headers"),
    ("pyarrow/libarrow_flight*", "a protocol between databases"),
    ("pyarrow/_flight*", "a protocol between databases"),
    ("pyarrow/libarrow_python.so", "links to the same file, which a wheel holds as copies"),
    ("numpy/*/include", "headers"),
    ("pandas/_libs/**/*.pyi", "stubs of types"),
    ("kubernetes/aio", "a second client of Kubernetes"),
    ("kubernetes/e2e_test", "tests of libraries"),
    ("virtualenv/seed/wheels/embed/*", "pip for environments that are not made here"),
)

#: The largest programs and libraries, whose names of inner functions nobody asks for.
NAMED = (
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libtorch_python.so",
    "ray/_raylet.so",
    "ray/core/src/ray/gcs/gcs_server",
    "ray/core/src/ray/raylet/raylet",
)


def trim(folder: Path) -> dict[str, int]:
    """Bytes that each reason gave back. Raises FileNotFoundError when there is no such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: name the site-packages of the environment.")
    freed: dict[str, int] = {}
    for pattern, reason in UNUSED:
        for path in list(folder.glob(pattern)):
            freed[reason] = freed.get(reason, 0) + _remove(path)
    if shutil.which("strip"):
        freed["names of inner functions"] = sum(_strip(folder / name) for name in NAMED)
    return freed


def _strip(path: Path) -> int:
    before = path.stat().st_size
    subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)
    return before - path.stat().st_size


def _remove(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
        shutil.rmtree(path)
        return size
    size = path.lstat().st_size
    path.unlink()
    return size


if __name__ == "__main__":
    for why, size in sorted(trim(Path(sys.argv[1])).items(), key=lambda found: -found[1]):
        print(f"{size / 1e6:8.1f} MB  {why}")
