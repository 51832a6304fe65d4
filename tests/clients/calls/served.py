"""A client in its own environment does what a test asks for: a line of JSON each way."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def serve(*calls: Callable[..., Any]) -> None:
    """Until stdin ends. A line names a call and its arguments: ["name", {"argument": 1}]; the answer is {"value": ...},
    or {"error": ...} with the traceback's end. What libraries print goes to stderr."""
    by_name = {call.__name__: call for call in calls}
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"value": by_name[name](**arguments)}
        except Exception:
            answer = {"error": traceback.format_exc(limit=-3, chain=False)}
        answers.write(json.dumps(answer) + "\n")
