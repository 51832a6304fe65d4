import uvloop

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.experiments.memory_kept import (
    LEAST_BYTES,
    MOST_BYTES,
    MOST_MORE_MIB,
    Drawn,
    Kept,
    is_kept_small,
    measure,
    table,
)
from dualmap.loadtest.overhead.measured_proxy import DEFAULT_GATEWAY, backends, gateway

FIRST = Kept(1_000, 2**27, rss_mib=90.0, fds=15)


def test_sizes_are_those_that_are_said_and_the_same_for_a_seed():
    sizes = [len(Drawn(seed).body()) for seed in range(200)]
    assert sizes == [len(Drawn(seed).body()) for seed in range(200)]
    assert LEAST_BYTES < min(sizes) < 2 * LEAST_BYTES
    assert MOST_BYTES / 2 < max(sizes) < MOST_BYTES + 200


def test_what_stays_fails_the_run():
    assert is_kept_small([FIRST, Kept(100_000, 2**33, rss_mib=90.0 + MOST_MORE_MIB, fds=15)])
    assert not is_kept_small([FIRST, Kept(100_000, 2**33, rss_mib=90.1 + MOST_MORE_MIB, fds=15)])
    assert not is_kept_small([FIRST, Kept(100_000, 2**33, rss_mib=90.0, fds=16)])


def test_requests_of_all_kinds_are_answered_and_looked_at(tmp_path):
    ports = free_ports("127.0.0.1", 1)
    with backends(ports, tmp_path), gateway(DEFAULT_GATEWAY, ports, tmp_path) as proxy:
        kept, load = uvloop.run(measure(proxy, (30, 60), 4, 7, settle_s=0.0))
    assert load.outcomes == {"200": load.sent}
    assert load.sent >= 60
    assert [look.fds > 0 and look.rss_mib > 10 for look in kept] == [True, True]
    assert len(list(table(kept))) == 3
