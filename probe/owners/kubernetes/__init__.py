"""Names of Pods by the Kubernetes API: of this node's, and of the cluster's if asked for."""

from __future__ import annotations

from probe.owners.kubernetes.names import (
    KubernetesNames,
    KubernetesSettings,
    is_wanted,
    node_name,
    open_kubernetes,
)

__all__ = ["KubernetesNames", "KubernetesSettings", "is_wanted", "node_name", "open_kubernetes"]
