"""What a server is told of where it runs."""

import asyncio
import sys
from pathlib import Path

from dualmap.instances.server.start import start_server
from dualmap.instances.spec import InstanceSpec
from dualmap.scheduler.instance_capacity import InstanceCapacity

SAYS = "import os, sys; print('listening on http://127.0.0.1:1', sys.argv[1], os.environ['AT'], flush=True); input()"


def test_a_port_for_other_servers_is_chosen_at_each_start_and_told_in_the_environment(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    command = (sys.executable, "-c", SAYS, "{host}:{kv_port}")
    spec = InstanceSpec("i0", InstanceCapacity(), log, command, {"AT": "{host}:{kv_port}", "OTHER": "{x}"})

    async def start_and_stop() -> None:
        server, _ = await start_server(spec, "127.0.0.1")
        await server.stop()

    for _ in range(2):
        asyncio.run(start_and_stop())
    told = [line.split()[-2:] for line in log.read_text().splitlines() if "listening" in line]
    assert [argument == variable for argument, variable in told] == [True, True]
    assert all(at.startswith("127.0.0.1:") and int(at.rpartition(":")[2]) > 0 for at, _ in told)
