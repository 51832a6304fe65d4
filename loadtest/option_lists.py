"""Lists as options of a command line give them, with commas between. Each function raises ValueError, with the option
and what it takes."""

from dualmap.router.config.installed_policies import check_policy, register_installed_policies
from dualmap.scheduler.config import SchedulerConfig, nearest_policy, policy_names


def policies(text: str) -> list[str]:
    """Names, or all, those that other packages provide included."""
    register_installed_policies()
    names = list(policy_names()) if text == "all" else _parts(text)
    for name in names:
        if name not in policy_names():
            nearest = nearest_policy(name)
            raise ValueError(f"--policy: no policy {name!r}{nearest}; there are {', '.join(policy_names())}, or all")
        check_policy(SchedulerConfig(policy=name))
    if not names:
        raise ValueError("--policy needs a name")
    return list(dict.fromkeys(names))


def numbers(text: str, option: str, above: float, below: float = float("inf")) -> tuple[float, ...]:
    found = _numbers(text, option)
    for value in found:
        if not above < value < below:
            limits = f"above {above}" + ("" if below == float("inf") else f" and below {below}")
            raise ValueError(f"{option} must be {limits}, not {value:g}")
    return found


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    found = _numbers(text, option)
    for value in found:
        if value < 1 or not value.is_integer():
            raise ValueError(f"{option} takes whole numbers of at least 1, not {value:g}")
    return tuple(map(int, found))


def span(text: str, option: str) -> tuple[int, int]:
    """MIN-MAX."""
    least, dash, most = text.partition("-")
    if not (dash and least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most)):
        raise ValueError(f"{option} takes MIN-MAX, whole numbers of at least 1 in order, not {text!r}")
    return int(least), int(most)


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in _parts(text))
    except ValueError:
        found = ()
    if not found:
        raise ValueError(f"{option} takes numbers with commas between, not {text!r}")
    return tuple(dict.fromkeys(found))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
