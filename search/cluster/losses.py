"""What it means that a worker of Ray's is gone."""

import ray


def is_node_lost(error: Exception) -> bool:
    """Answer whether a worker was lost with its whole node: a spot instance taken back, a power or network failure.

    A node that is shut down in order asks its processes to end, with SIGTERM, and the worker's end may be heard of
    before the node's. A training's own crash is another signal, and where memory is short Ray and the kernel kill; who
    lets a daemon do that by SIGTERM has trials that it ends started again without end.
    """
    if not isinstance(error, ray.exceptions.RayActorError):
        return False
    text = str(error)
    signs = ("node has died", "node was terminated", "receives a SIGTERM")
    return isinstance(error, ray.exceptions.ActorUnavailableError) or error.preempted or any(s in text for s in signs)
