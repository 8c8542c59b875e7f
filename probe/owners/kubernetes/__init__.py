"""Names Pods by the Kubernetes API: those of this node, and of the cluster if asked for."""

from __future__ import annotations

from probe.owners.kubernetes.names import (
    KubernetesNames,
    KubernetesSettings,
    is_wanted,
    node_name,
    open_kubernetes,
)

__all__ = ["KubernetesNames", "KubernetesSettings", "is_wanted", "node_name", "open_kubernetes"]
