"""What is told of a server when it is watched for the first time."""

from typing import NamedTuple


class FirstLook(NamedTuple):
    """What was seen of a server at first. reason: why it is not ready; empty where that is not known yet."""

    url: str
    ready: bool
    reason: str
