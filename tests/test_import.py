"""What `import varigrad` brings with it: every script and every worker of the lab waits for that."""

import subprocess
import sys


def test_importing_varigrad_imports_neither_dtensor_nor_the_lab() -> None:
    """DTensor takes longer to import than the rest of this package."""
    slow = ["torch.distributed.tensor", "varigrad.lab", "pandas", "matplotlib"]
    told = f"import sys, varigrad; print([name for name in {slow} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout == "[]\n"
