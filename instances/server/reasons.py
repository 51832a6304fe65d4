"""Why a server is in its state, in a sentence for people, from what was seen of it.

Of a server that does not answer: `no_answer`. Of one that answers, but cannot be used: the others.
"""

from signal import strsignal

from dualmap.router.http.endpoint_connection import why_unconnected

KEY_SETTING = "gateway.instance_key_file"
ANOTHER_PROCESS = "another process came to this address"
BALANCED = "a load balancer before several servers"
NO_VLLM = "answers, but is no vLLM server"
NO_HTTP = f"{NO_VLLM}: what it says is no HTTP"
KEY_REFUSED = (401, 403)  # statuses
FULL = 429
MOST_CHARACTERS = 160  # of what a server says itself


def no_answer(error: OSError, timeout_s: float) -> str:
    """error: what a request to it ended with; timeout_s: what it was given."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    return shortened(why_unconnected(error))


def refused(path: str, status: int, with_key: bool = False, what: str = "") -> str:
    """path: what was asked of it; status: of its answer, which was not 200. with_key: a key was sent along. what: see
    what_it_is."""
    if status == 503 and path != "/health":  # where vLLM answers so when its engine is dead
        return "503: it loads its model"
    if status in KEY_REFUSED:
        return f"{status}: it refuses the key" if with_key else f"{status}: it wants a key ({KEY_SETTING})"
    if status >= 500 or status == FULL:
        return f"{path} answers {status}"
    return f"{NO_VLLM}: {path} answers {status}{what}"


def no_model_list(path: str, what: str = "") -> str:
    """It answered with 200, but not with what vLLM does. what: see what_it_is."""
    return f"{NO_VLLM}: {path} is no list of models{what}"


def what_it_is(body: bytes, software: str, location: str) -> str:
    """What a server answered with that is no vLLM, to be found out by people. software, location: as the fields
    `server` and `location` of its answer say."""
    if location:
        return f": it redirects to {shortened(location)}"
    start = body[:MOST_CHARACTERS].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        kind = "a page of HTML"
    elif start.startswith((b"{", b"[")):
        kind = "JSON of another kind"
    else:
        kind = "text" if start else "nothing"
    return f": {kind}" + (f", from {shortened(software)}" if software else "")


def no_rank(rank: int, engines: int) -> str:
    """engines: that the server's metrics tell of."""
    return f"it has no rank {rank}: its metrics tell of {engines} engine{'s' if engines > 1 else ''}"


def several_engines(count: int, url: str) -> str:
    """Of a server that is named as one instance."""
    return f"{count} data-parallel engines, of which vLLM chooses: name them {url}@0..{count - 1} to choose by prefix"


def no_token(path: str, status: int) -> str:
    """It has models, but makes no token. status: 0 for no answer."""
    return f"makes no token: {path} " + (f"answers {status}" if status else "does not answer")


def ended(code: int, last_error: str = "") -> str:
    """Of a server of ours. last_error: of its log."""
    said = shortened(last_error) or (strsignal(-code) if code < 0 else "")
    return f"its server ended with exit code {code}" + (f": {said}" if said else "")


def started_again(why: str) -> str:
    return f"{why}; started again"


def start_failed(times: int, why: str) -> str:
    """why: the last one failed, may have many lines."""
    how_often = "its start failed" if times == 1 else f"its start failed {times} times in a row"
    return f"{how_often}: {shortened(why)}"


def shortened(text: str) -> str:
    """The first line, as much as is shown of it."""
    return text.strip().partition("\n")[0].strip()[:MOST_CHARACTERS]
