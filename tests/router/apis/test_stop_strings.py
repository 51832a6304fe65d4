"""Stop strings across the place where an answer was cut."""

import pytest

from dualmap.router.apis.stop_strings import StopStrings, read_stops

CASES = [
    # stops, included, text before, what comes, what the client gets, with which it ends
    (("stop",), False, "he st", ["o", "p here"], " ", "stop"),
    (("stop",), False, "he st", ["eps", " on"], " steps on", None),
    (("stop",), False, "", ["sto", "p"], "", "stop"),
    (("ab", "abc"), False, "a", ["bc"], "", "ab"),
    (("abc", "bc"), False, "ab", ["c"], "", "abc"),
    (("stop",), True, "he st", ["op", " more"], "op", "stop"),
    (("stop",), True, "he st", ["ep"], "ep", None),
    (("x",), False, "abc", ["d", "x", "e"], "d", "x"),
]


@pytest.mark.parametrize(("stops", "included", "before", "comes", "shown", "found"), CASES)
def test_text_is_kept_back_and_cut_as_if_it_had_been_made_in_one_place(stops, included, before, comes, shown, found):
    """Of the text before, the client has all but what may be the beginning of a stop string, and all if it is
    included."""
    watch = StopStrings(stops, included=included, text=before)
    got = ""
    for place, text in enumerate(comes):
        more, stop = watch.feed(text, last=place == len(comes) - 1)
        got += more
        if stop is not None:
            break
    assert (got, stop) == (shown, found)


@pytest.mark.parametrize(("stop", "read"), [(None, ()), ("", ()), ("a", ("a",)), (["a", "", 3, "b"], ("a", "b"))])
def test_a_request_names_one_or_several(stop, read):
    assert read_stops(stop) == read
