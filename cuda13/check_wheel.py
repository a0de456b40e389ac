"""Say what the CUDA wheel holds, and fail unless that is code for every architecture asked for.

python check_wheel.py CUOBJDUMP WHEEL 75 80 ... 120: the last one must be there as PTX too, for what comes after it.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def held(cuobjdump: str, library: Path, kind: str) -> list[int]:
    """Return the architectures of the code of a kind, elf or ptx."""
    listing = subprocess.run([cuobjdump, f"--list-{kind}", library], capture_output=True, text=True, check=False).stdout
    return sorted({int(found) for found in re.findall(r"\.sm_(\d+)", listing)})


def main(cuobjdump: str, wheel: Path, wanted: list[int]) -> None:
    """Check one wheel."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".so"))
        library = Path(archive.extract(name, folder))
        machine, portable = held(cuobjdump, library, "elf"), held(cuobjdump, library, "ptx")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, the module {library.stat().st_size / 1e6:.2f} MB")
    print(f"machine code for {machine}, PTX for {portable}")
    if machine != wanted or portable != wanted[-1:]:
        sys.exit(f"expected machine code for {wanted} and PTX for {wanted[-1:]}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [int(text) for text in sys.argv[3:]])
