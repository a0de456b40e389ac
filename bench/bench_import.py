"""What does `import visdeploy` cost, in a process of its own with a warm disk cache?"""

import subprocess
import sys

from timing import Row, compare, main


def cases() -> list[Row]:
    def importing(name: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {name}" if name else "pass"], check=True)

    contenders = {f"import {name}": lambda name=name: importing(name) for name in ("visdeploy", "torch", "numpy")}
    contenders["python alone"] = lambda: importing("")
    return compare("import", contenders, n=7)


if __name__ == "__main__":
    main(cases, ["visdeploy", "numpy", "torch"])
