"""Which type of node is started next: the one that is preferred, unless the cloud has just refused it.

Ray's autoscaler on the head loads this into its own process (`RAY_AUTOSCALER_UTILIZATION_SCORER` in cluster.yaml), so
nothing is imported here that it does not hold already.
"""

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import NodeResources, _default_utilization_scorer


def prefer_available(
    node_resources: NodeResources,
    resources: list[NodeResources],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> tuple[object, ...] | None:
    """Return the worth of starting a node of this type; the highest is started.

    It is Ray's own behind whether the cloud gave what it was last asked for. Ray's first autoscaler keeps a record of
    that for half an hour and looks at it nowhere: what is exhausted it would ask for again and again.

    Args:
        node_resources: What such a node has.
        resources: What is waited for, a mapping each.
        node_type: Its name in the cluster file.
        node_availability_summary: Whether the last request for each type was granted, where that is known.

    Returns:
        None if nothing that is waited for fits such a node.
    """
    worth = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    last = node_availability_summary.node_availabilities.get(node_type)
    return None if worth is None else (last is None or last.is_available, *worth)
