"""Images of tests: what stands in them where CUDA would be."""

import ctypes
import subprocess
from pathlib import Path
from typing import Final

import pytest
from tests.cluster.hollow_wheels import hollow_library
from tests.cluster.requirements import missing

LIBRARY: Final = """
int counted = 7;
int doubled(int number) { return 2 * number; }
void _fini(void) {}
"""


def test_a_hollow_library_has_the_names_of_the_real_one_and_does_nothing(tmp_path: Path) -> None:
    if missing():
        pytest.skip(f"no {', '.join(missing())}")
    source, real, hollow = (tmp_path / name for name in ("a.c", "libreal.so", "libhollow.so"))
    source.write_text(LIBRARY)
    versions = tmp_path / "versions"
    versions.write_text("REAL_1 { global: counted; doubled; _fini; };\n")
    options = ("-shared", "-fPIC", "-nostdlib", f"-Wl,--version-script={versions}")
    subprocess.run(
        ("gcc", *options, "-Wl,-soname,libreal.so.1", "-o", str(real), str(source)), check=True
    )
    hollow.write_bytes(hollow_library(real))
    assert b"libreal.so.1\0" in hollow.read_bytes()
    assert b"REAL_1\0" in hollow.read_bytes()
    # The loader takes it, and calls nothing of it: else this process would end.
    loaded = ctypes.CDLL(str(hollow))
    assert ctypes.c_int.in_dll(loaded, "counted").value == 0
    assert loaded.doubled
    with pytest.raises(AttributeError):
        _ = loaded.tripled
