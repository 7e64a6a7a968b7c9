"""Keep keys out of messages, logs and records."""

from __future__ import annotations

import os
import re
from typing import Final

_LOGIN: Final = re.compile(r"(?<=://)[^/\s@'\"]+@")
"""User name and password of an address."""
_SIGNED: Final = re.compile(
    r"([?&;](?:X-Amz-[\w-]+|Signature|Expires|Policy|Key-Pair-Id|AWSAccessKeyId|sig|token|access_token|auth|key|"
    r"api_?key|password|secret)=)[^&\s'\"]+",
    re.IGNORECASE,
)
"""What opens an address to whoever has it."""
_SECRET_NAME: Final = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY(_ID)?)$", re.IGNORECASE)
_SHORTEST: Final = 8
"""A shorter value is no key, and may be part of any word."""
HIDDEN: Final = "***"


def scrub(text: str) -> str:
    """`text` without logins and signatures in addresses, and without the keys that the environment holds.

    Keys are the values of variables whose name ends in TOKEN, SECRET, PASSWORD, API_KEY and the like: `HF_TOKEN`,
    `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `WANDB_API_KEY`.
    """
    text = _SIGNED.sub(rf"\1{HIDDEN}", _LOGIN.sub("", text))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, HIDDEN)
    return text
