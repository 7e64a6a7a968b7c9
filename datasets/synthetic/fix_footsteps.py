"""Write the hashes that hold `footsteps-v1` fast: python datasets/synthetic/fix_footsteps.py

Run it only for a new version of the benchmark. Numbers measured on other clips are not comparable.
"""

from __future__ import annotations

import json
from pathlib import Path

from distill.synthetic import collection, make_clip
from distill.synthetic.collections import truth_hash

TARGET = Path(__file__).parents[2] / "tests" / "data" / "footsteps-v1.json"


def main() -> None:
    """Make every clip and write its hash."""
    hashes = {spec.id: truth_hash(make_clip(spec)) for spec in collection("footsteps-v1")}
    TARGET.write_text(json.dumps(hashes, indent=1) + "\n")
    print(f"{len(hashes)} clips: {TARGET}")


if __name__ == "__main__":
    main()
