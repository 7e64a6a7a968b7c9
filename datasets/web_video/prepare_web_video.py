"""Turn downloaded videos into a manifest of what is worth labelling. Nothing is downloaded here.

python datasets/web_video/prepare_web_video.py videos=FOLDER out=data/web_video licence="CC-BY-4.0"
python datasets/web_video/prepare_web_video.py videos=FOLDER ids=ids.csv estimate.gpu_price=2.5 estimate_only=true

Settings are those of `teacher.collect.config.CollectConfig` (docs/collections.md). Run it again after a stop: videos
that are surveyed are not looked at again.
"""

from __future__ import annotations

import sys

from distill.config import load_config
from distill.errors import FootfallError
from teacher.collect.config import CollectConfig
from teacher.collect.run import collect


def main(arguments: list[str] | None = None) -> int:
    """Survey the videos; 0 when a manifest or an estimate is there, 2 when the user has something to mend."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        config = load_config(CollectConfig, None, words)
        collected = collect(config)
    except FootfallError as error:
        print(f"prepare_web_video: {error}", file=sys.stderr)
        return 2
    for video, why in collected.failed.items():
        print(f"prepare_web_video: {video} left out: {why}", file=sys.stderr)
    if config.estimate_only:
        return 0
    if collected.manifest is None:
        print("prepare_web_video: nothing worth labelling; the report says why", file=sys.stderr)
        return 2
    print(f"footfall label {collected.manifest} --out labels --blur-faces")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
