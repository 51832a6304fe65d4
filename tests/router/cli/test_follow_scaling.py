from dualmap.router.cli.follow_scaling import progress


def test_progress_counts_states_and_says_why_one_of_ours_is_not_ready():
    idle = {"ours": True, "running": 0, "waiting": 0, "reason": ""}
    instances = [
        {**idle, "instance_id": "sim-0", "state": "ready"},
        {**idle, "instance_id": "sim-1", "state": "draining", "running": 2, "waiting": 1},
        {**idle, "instance_id": "sim-2", "state": "starting", "reason": "its start failed: no GPU"},
        {**idle, "instance_id": "h:1", "state": "lost", "reason": "connection refused", "ours": False},
    ]
    text = "1 draining, 1 lost, 1 ready, 1 starting; requests left at sim-1: 3; sim-2: its start failed: no GPU"
    assert progress([{"role": "both", "instances": instances, "restart": None}]) == text
    prefill = {"role": "prefill", "instances": instances[:1], "restart": None}
    assert progress([prefill, prefill | {"role": "decode"}]) == "prefill: 1 ready; decode: 1 ready"
