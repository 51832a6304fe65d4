"""A Ray cluster that others start, for deployments that join it."""

from ray.cluster_utils import Cluster

from tests.deployment import RAY_IS_LATE

NODE = {"include_dashboard": False, "object_store_memory": 100 * 1024 * 1024}


def first_node() -> Cluster | None:
    """None where this machine is too busy for Ray, which gives a node 30 s to start."""
    try:
        return Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **NODE})
    except Exception as error:  # Ray has no class for it
        if RAY_IS_LATE in str(error):
            return None
        raise
