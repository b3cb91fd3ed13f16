"""What the API server of the tests serves: the kinds of Kubernetes and of the operators."""

from __future__ import annotations

#: kind: (group/version, plural, namespaced)
KINDS: dict[str, tuple[str, str, bool]] = {
    "Namespace": ("v1", "namespaces", False),
    "Node": ("v1", "nodes", False),
    "Pod": ("v1", "pods", True),
    "Service": ("v1", "services", True),
    "Secret": ("v1", "secrets", True),
    "ConfigMap": ("v1", "configmaps", True),
    "ServiceAccount": ("v1", "serviceaccounts", True),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims", True),
    "ResourceQuota": ("v1", "resourcequotas", True),
    "LimitRange": ("v1", "limitranges", True),
    "Event": ("v1", "events", True),
    "Deployment": ("apps/v1", "deployments", True),
    "StatefulSet": ("apps/v1", "statefulsets", True),
    "DaemonSet": ("apps/v1", "daemonsets", True),
    "Job": ("batch/v1", "jobs", True),
    "CronJob": ("batch/v1", "cronjobs", True),
    "Role": ("rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings", True),
    "ClusterRole": ("rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies", True),
    "Ingress": ("networking.k8s.io/v1", "ingresses", True),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets", True),
    "PriorityClass": ("scheduling.k8s.io/v1", "priorityclasses", False),
    "StorageClass": ("storage.k8s.io/v1", "storageclasses", False),
    "ResourceClaimTemplate": ("resource.k8s.io/v1", "resourceclaimtemplates", True),
}
#: Those of operators, as a cluster with all of them has them.
CUSTOM: dict[str, tuple[str, str, bool]] = {
    "RayService": ("ray.io/v1", "rayservices", True),
    "RayCluster": ("ray.io/v1", "rayclusters", True),
    "RayJob": ("ray.io/v1", "rayjobs", True),
    "Milvus": ("milvus.io/v1beta1", "milvuses", True),
    "NodePool": ("karpenter.sh/v1", "nodepools", False),
    "EC2NodeClass": ("karpenter.k8s.aws/v1", "ec2nodeclasses", False),
    "PodMonitor": ("monitoring.coreos.com/v1", "podmonitors", True),
    "ServiceMonitor": ("monitoring.coreos.com/v1", "servicemonitors", True),
    "PrometheusRule": ("monitoring.coreos.com/v1", "prometheusrules", True),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "httproutes", True),
    "Gateway": ("gateway.networking.k8s.io/v1", "gateways", True),
    "Certificate": ("cert-manager.io/v1", "certificates", True),
    "LocalQueue": ("kueue.x-k8s.io/v1beta2", "localqueues", True),
    "ClusterQueue": ("kueue.x-k8s.io/v1beta2", "clusterqueues", False),
    "ResourceFlavor": ("kueue.x-k8s.io/v1beta2", "resourceflavors", False),
    "WorkloadPriorityClass": ("kueue.x-k8s.io/v1beta2", "workloadpriorityclasses", False),
}
