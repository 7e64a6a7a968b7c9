"""Let a CUDA build of torchvision be imported beside a CPU build of torch, in this environment.

Package indexes carry torchvision for CUDA only. Beside a CPU torch its compiled operators cannot load, and
`import torchvision` (and with it timm and `accelerate launch`) fails because two operators are not declared.
This script installs an import hook that declares them just before torchvision is imported. It does so only
when torch has no CUDA; with a CUDA torch nothing is changed. Run it with the environment's own Python.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

HOOK = '''\
"""Declares torchvision's operators beside a CPU torch; written by .ci/torchvision_on_cpu.py of footfall."""
import importlib.abc
import sys


class _Declare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None and torch.version.hip is None:
                library = torch.library.Library("torchvision", "FRAGMENT")
                for kind in ("nms", "qnms"):
                    library.define(f"{kind}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                self.library = library  # declarations live as long as this object
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
