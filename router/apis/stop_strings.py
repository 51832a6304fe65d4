"""Stop strings of an answer that goes on at another instance: one may begin in what the first has made, and end in what
the second makes. They are found, and text is held back, as vLLM does it (v1/engine/detokenizer.py)."""


class StopStrings:
    """Looks for them in the text that comes, from where the answer was cut."""

    def __init__(self, stops: tuple[str, ...], *, included: bool, text: str) -> None:
        """stops: one or more. included: the one that is found is part of the answer. text: the end of the answer so
        far, all of it if it is shorter than a stop string."""
        self._stops = stops
        self._included = included
        self._kept = max(map(len, stops)) - 1  # characters that may be the beginning of one
        self._text = text[len(text) - self._kept :] if len(text) > self._kept else text
        self._shown = len(self._text) if included else 0  # how much of it the client has

    def feed(self, text: str, *, last: bool) -> tuple[str, str | None]:
        """Take some more of the answer; returns what of it the client gets now, and the stop string with which the
        answer ends, if any. last: nothing more comes."""
        before = len(self._text)
        window = self._text + text
        starts = [window.find(stop, max(0, before - len(stop) + 1)) for stop in self._stops]
        ends = [(start + len(self._stops[place]), place) for place, start in enumerate(starts) if start >= 0]
        if ends:
            end, place = min(ends)  # the one that is complete first
            stop = self._stops[place]
            return window[self._shown : end if self._included else end - len(stop)], stop
        until = len(window) if last or self._included else max(self._shown, len(window) - self._kept)
        shown = window[self._shown : until]
        drop = max(0, len(window) - self._kept) if self._included else until
        self._text = window[drop:]
        self._shown = until - drop
        return shown, None


def read_stops(stop: object) -> tuple[str, ...]:
    """As a request names them, one or several."""
    if isinstance(stop, str):
        return (stop,) if stop else ()
    return tuple(one for one in stop if isinstance(one, str) and one) if isinstance(stop, list) else ()
