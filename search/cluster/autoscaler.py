"""Chooses the type of the next node: the preferred one, unless the cloud has just refused it.

Ray's autoscaler on the head loads this module into its own process (`RAY_AUTOSCALER_UTILIZATION_SCORER` in
cluster.yaml), so it imports only what is loaded there already.
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
    """Return the score of starting a node of this type; the highest wins.

    First counts whether the cloud granted the last request, then Ray's own score. Ray's first autoscaler remembers a
    refusal for half an hour but does not use it: it would request an exhausted type again and again.

    Args:
        node_resources: Resources of a node of this type.
        resources: Resources that trials wait for, one mapping for each.
        node_type: Name of the type in the cluster file.
        node_availability_summary: Whether the last request for each type was granted, if known.

    Returns:
        None if none of the waiting trials fits on such a node.
    """
    worth = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    last = node_availability_summary.node_availabilities.get(node_type)
    return None if worth is None else (last is None or last.is_available, *worth)
