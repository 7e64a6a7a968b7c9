"""Let a CUDA build of torchvision be imported beside a CPU build of torch, in this environment.

Package indexes carry torchvision for CUDA only. Beside a CPU torch its compiled operators cannot load, and
`import torchvision` (and with it timm and `accelerate launch`) fails because two operators are not declared.
This script installs an import hook that declares them just before torchvision is imported. It does so only
when torch has no CUDA and torchvision was built for it; otherwise (a CUDA torch, or a torchvision for CPU, which
declares them itself) nothing is changed. Run it with the environment's own Python.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

HOOK = '''\
"""Declares torchvision's operators beside a CPU torch; written by .ci/torchvision_on_cpu.py of footfall."""
import importlib.abc
import importlib.machinery
import sys


class _Declare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import pathlib

            found = importlib.machinery.PathFinder.find_spec(name, path)
            library = pathlib.Path(found.origin).parent / "_C.so" if found and found.origin else None
            if library is None or not library.is_file() or b"libtorch_cuda" not in library.read_bytes():
                return None
            import torch

            if torch.version.cuda is None and torch.version.hip is None:
                operators = torch.library.Library("torchvision", "FRAGMENT")
                for kind in ("nms", "qnms"):
                    operators.define(f"{kind}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                self.operators = operators  # declarations live as long as this object
                sys.modules[__name__].keep = self
        return None


sys.meta_path.insert(0, _Declare())
'''


def main() -> None:
    """Write the hook and the .pth line that loads it at start-up."""
    site = Path(sysconfig.get_paths()["purelib"])
    (site / "footfall_torchvision_hook.py").write_text(HOOK)
    (site / "footfall_torchvision_hook.pth").write_text("import footfall_torchvision_hook\n")


if __name__ == "__main__":
    main()
