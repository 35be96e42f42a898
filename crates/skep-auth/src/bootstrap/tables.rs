//! The default policy as data. Facts: what Kubernetes 1.36 creates with its default feature gates.
//!
//! Lists are words between blanks; `core` is the API group without a name.

use super::Who::{Account, Group, User};
use super::{
    BindingSpec, EVENTS, READ, READ_UPDATE, READ_WRITE, RoleSpec, WRITE, bind, named, on, role, urls,
};

/// The cluster roles that are not a controller's.
pub(super) const CLUSTER_ROLES: &[RoleSpec] = &[
    role("", "admin", &[]).aggregated_from("admin"),
    role("", "cluster-admin", &[on("*", "*", "*"), urls("*", "*")]),
    role("", "edit", &[]).aggregates_to("admin").aggregated_from("edit"),
    role("", "system:aggregate-to-admin", &[on("create", "authorization.k8s.io", "localsubjectaccessreviews"), on(READ_WRITE, "rbac.authorization.k8s.io", "rolebindings roles")]).aggregates_to("admin"),
    role("", "system:aggregate-to-edit", &[on(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"), on("impersonate", "core", "serviceaccounts"), on(WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"), on("create", "core", "pods/eviction"), on(WRITE, "core", "configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy"), on("create", "core", "serviceaccounts/token"), on(WRITE, "core events.k8s.io", "events"), on(WRITE, "apps", "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale"), on(WRITE, "autoscaling", "horizontalpodautoscalers"), on(WRITE, "batch", "cronjobs jobs"), on(WRITE, "extensions", "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale"), on(WRITE, "policy", "poddisruptionbudgets"), on(WRITE, "networking.k8s.io", "ingresses networkpolicies"), on(READ_WRITE, "coordination.k8s.io", "leases"), on(WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates")]).aggregates_to("edit"),
    role("", "system:aggregate-to-view", &[on(READ, "core", "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status"), on(READ, "core", "bindings limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status"), on(READ, "core", "namespaces"), on(READ, "core events.k8s.io", "events"), on(READ, "discovery.k8s.io", "endpointslices"), on(READ, "apps", "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status"), on(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"), on(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"), on(READ, "extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale"), on(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"), on(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"), on(READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates")]).aggregates_to("view"),
    // Upstream it comes with the metrics server, which is built in here.
    role("", "system:aggregated-metrics-reader", &[on(READ, "metrics.k8s.io", "nodes pods")]).aggregates_to("view"),
    role("", "system:auth-delegator", &[on("create", "authentication.k8s.io", "tokenreviews"), on("create", "authorization.k8s.io", "subjectaccessreviews")]),
    role("", "system:basic-user", &[on("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"), on("create", "authentication.k8s.io", "selfsubjectreviews")]),
    role("", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", &[on("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")]),
    role("", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", &[on("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")]),
    role("", "system:certificates.k8s.io:kube-apiserver-client-approver", &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client")]),
    role("", "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver", &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet")]),
    role("", "system:certificates.k8s.io:kubelet-serving-approver", &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kubelet-serving")]),
    role("", "system:certificates.k8s.io:legacy-unknown-approver", &[named("approve", "certificates.k8s.io", "signers", "kubernetes.io/legacy-unknown")]),
    role("", "system:discovery", &[urls("get", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")]),
    role("", "system:heapster", &[on(READ, "core", "events namespaces nodes pods"), on(READ, "extensions", "deployments")]),
    role("", "system:kube-aggregator", &[on(READ, "core", "endpoints services")]),
    role("", "system:kube-controller-manager", &[EVENTS, on("create", "coordination.k8s.io", "leases"), named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"), on("create", "core", "secrets serviceaccounts"), on("delete", "core", "secrets"), on("get", "core", "configmaps namespaces secrets serviceaccounts"), on("update", "core", "secrets serviceaccounts"), on("create", "authentication.k8s.io", "tokenreviews"), on("create", "authorization.k8s.io", "subjectaccessreviews"), on("list watch", "*", "*"), on("create", "core", "serviceaccounts/token")]),
    role("", "system:kube-dns", &[on("list watch", "core", "endpoints services")]),
    role("", "system:kube-scheduler", &[EVENTS, on("create", "coordination.k8s.io", "leases"), named("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"), on(READ_WRITE, "coordination.k8s.io", "leasecandidates"), on(READ, "core", "nodes"), on("delete get list watch", "core", "pods"), on("create", "core", "bindings pods/binding"), on("patch update", "core", "pods/status"), on(READ, "core", "replicationcontrollers services"), on(READ, "apps extensions", "replicasets"), on(READ, "apps", "statefulsets"), on(READ, "policy", "poddisruptionbudgets"), on(READ, "core", "persistentvolumeclaims persistentvolumes"), on("create", "authentication.k8s.io", "tokenreviews"), on("create", "authorization.k8s.io", "subjectaccessreviews"), on(READ, "storage.k8s.io", "csinodes"), on(READ, "storage.k8s.io", "volumeattachments"), on(READ, "core", "namespaces"), on(READ, "storage.k8s.io", "csidrivers"), on(READ, "storage.k8s.io", "csistoragecapacities"), on(READ, "resource.k8s.io", "deviceclasses"), on(READ_UPDATE, "resource.k8s.io", "resourceclaims"), on(READ_UPDATE, "resource.k8s.io", "resourceclaims/status"), on("update", "core", "pods/finalizers"), on(READ, "resource.k8s.io", "resourceslices"), on("create delete", "resource.k8s.io", "resourceclaims"), on("patch update", "resource.k8s.io", "resourceclaims/binding")]),
    role("", "system:kubelet-api-admin", &[on(READ, "core", "nodes"), on("proxy", "core", "nodes"), on("*", "core", "nodes/log nodes/metrics nodes/proxy nodes/stats"), on("*", "core", "nodes/configz nodes/healthz nodes/pods")]),
    role("", "system:monitoring", &[urls("get", "/flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/* /statusz"), on("get", "core", "nodes/metrics")]),
    role("", "system:node", &[on("create", "authentication.k8s.io", "tokenreviews"), on("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"), on(READ, "core", "services"), on("create get list watch", "core", "nodes"), on("patch update", "core", "nodes/status"), on("patch update", "core", "nodes"), EVENTS, on(READ, "core", "pods"), on("create delete", "core", "pods"), on("patch update", "core", "pods/status"), on("create", "core", "pods/eviction"), on(READ, "core", "configmaps secrets"), on("get", "core", "persistentvolumeclaims persistentvolumes"), on("get", "core", "endpoints"), on("create get list watch", "certificates.k8s.io", "certificatesigningrequests"), on("create delete get patch update", "coordination.k8s.io", "leases"), on("get", "storage.k8s.io", "volumeattachments"), on("create", "core", "serviceaccounts/token"), on("get patch update", "core", "persistentvolumeclaims/status"), on(READ, "storage.k8s.io", "csidrivers"), on("create delete get patch update", "storage.k8s.io", "csinodes"), on(READ, "node.k8s.io", "runtimeclasses"), on("get", "resource.k8s.io", "resourceclaims"), on("deletecollection", "resource.k8s.io", "resourceslices"), on("get", "core", "serviceaccounts")]),
    role("", "system:node-bootstrapper", &[on("create get list watch", "certificates.k8s.io", "certificatesigningrequests")]),
    role("", "system:node-problem-detector", &[on("get", "core", "nodes"), on("patch", "core", "nodes/status"), EVENTS]),
    role("", "system:node-proxier", &[on("list watch", "core", "endpoints services"), on(READ, "core", "nodes"), EVENTS, on("list watch", "networking.k8s.io", "servicecidrs"), on("list watch", "discovery.k8s.io", "endpointslices")]),
    role("", "system:persistent-volume-provisioner", &[on("create delete get list watch", "core", "persistentvolumes"), on("get list update watch", "core", "persistentvolumeclaims"), on(READ, "storage.k8s.io", "storageclasses"), on("watch", "core", "events"), EVENTS]),
    role("", "system:public-info-viewer", &[urls("get", "/healthz /livez /readyz /version /version/")]),
    role("", "system:service-account-issuer-discovery", &[urls("get", "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")]),
    role("", "system:volume-scheduler", &[on(READ_UPDATE, "core", "persistentvolumes"), on(READ, "storage.k8s.io", "storageclasses"), on(READ_UPDATE, "core", "persistentvolumeclaims")]),
    role("", "view", &[]).aggregates_to("edit").aggregated_from("view"),
];

/// The controllers' cluster roles, named without their `system:controller:`; each is bound to the service
/// account of the same name in `kube-system`.
pub(super) const CONTROLLER_ROLES: &[RoleSpec] = &[
    role(
        "",
        "attachdetach-controller",
        &[
            on("list watch", "core", "persistentvolumeclaims persistentvolumes"),
            on(READ, "core", "nodes"),
            on("patch update", "core", "nodes/status"),
            on("list watch", "core", "pods"),
            EVENTS,
            on("create delete get list watch", "storage.k8s.io", "volumeattachments"),
            on(READ, "storage.k8s.io", "csidrivers"),
            on(READ, "storage.k8s.io", "csinodes"),
        ],
    ),
    role(
        "",
        "certificate-controller",
        &[
            on("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            on(
                "update",
                "certificates.k8s.io",
                "certificatesigningrequests/approval certificatesigningrequests/status",
            ),
            named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
            named(
                "sign",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            ),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    role(
        "",
        "clusterrole-aggregation-controller",
        &[on("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")],
    ),
    role(
        "",
        "cronjob-controller",
        &[
            on("get list update watch", "batch", "cronjobs"),
            on("create delete get list patch update watch", "batch", "jobs"),
            on("update", "batch", "cronjobs/status"),
            on("update", "batch", "cronjobs/finalizers"),
            on("delete list watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "",
        "daemon-set-controller",
        &[
            on(READ, "apps extensions", "daemonsets"),
            on("update", "apps extensions", "daemonsets/status"),
            on("update", "apps extensions", "daemonsets/finalizers"),
            on("list watch", "core", "nodes"),
            on("create delete list patch watch", "core", "pods"),
            on("create", "core", "pods/binding"),
            on("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    role(
        "",
        "deployment-controller",
        &[
            on("get list update watch", "apps extensions", "deployments"),
            on("update", "apps extensions", "deployments/status"),
            on("update", "apps extensions", "deployments/finalizers"),
            on("create delete get list patch update watch", "apps extensions", "replicasets"),
            on("get list update watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "",
        "device-taint-eviction-controller",
        &[
            on("delete get list watch", "core", "pods"),
            on("patch update", "core", "pods/status"),
            on(READ, "resource.k8s.io", "resourceclaims"),
            on(READ, "resource.k8s.io", "resourceslices"),
            on(READ, "resource.k8s.io", "deviceclasses"),
            EVENTS,
        ],
    ),
    role(
        "",
        "disruption-controller",
        &[
            on(READ, "apps extensions", "deployments"),
            on(READ, "apps extensions", "replicasets"),
            on(READ, "core", "replicationcontrollers"),
            on(READ, "policy", "poddisruptionbudgets"),
            on(READ, "apps", "statefulsets"),
            on("update", "policy", "poddisruptionbudgets/status"),
            on("patch update", "core", "pods/status"),
            on("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    role(
        "",
        "endpoint-controller",
        &[
            on(READ, "core", "pods services"),
            on("create delete get list update watch", "core", "endpoints"),
            on("create", "core", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    role(
        "",
        "endpointslice-controller",
        &[
            on(READ, "core", "nodes pods services"),
            on("update", "core", "services/finalizers"),
            on("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            on("create", "discovery.k8s.io", "endpointslices/restricted"),
            EVENTS,
        ],
    ),
    role(
        "",
        "endpointslicemirroring-controller",
        &[
            on(READ, "core", "endpoints services"),
            on("update", "core", "services/finalizers"),
            on("update", "core", "endpoints/finalizers"),
            on("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            on("create", "discovery.k8s.io", "endpointslices/restricted"),
            EVENTS,
        ],
    ),
    role(
        "",
        "ephemeral-volume-controller",
        &[
            on(READ, "core", "pods"),
            on("update", "core", "pods/finalizers"),
            on("create get list watch", "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    role(
        "",
        "expand-controller",
        &[
            on(READ_UPDATE, "core", "persistentvolumes"),
            on("patch update", "core", "persistentvolumeclaims/status"),
            on(READ, "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    role("", "generic-garbage-collector", &[on("delete get list patch update watch", "*", "*"), EVENTS]),
    role(
        "",
        "horizontal-pod-autoscaler",
        &[
            on(READ, "autoscaling", "horizontalpodautoscalers"),
            on("update", "autoscaling", "horizontalpodautoscalers/status"),
            on("get update", "*", "*/scale"),
            on("list watch", "core", "pods"),
            on("list watch", "metrics.k8s.io", "pods"),
            on(READ, "custom.metrics.k8s.io", "*"),
            on(READ, "external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    role(
        "",
        "job-controller",
        &[
            on(READ_UPDATE, "batch", "jobs"),
            on("update", "batch", "jobs/status"),
            on("update", "batch", "jobs/finalizers"),
            on("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "",
        "legacy-service-account-token-cleaner",
        &[
            named("get", "core", "configmaps", "kube-apiserver-legacy-service-account-token-tracking"),
            on("delete patch", "core", "secrets"),
        ],
    ),
    role(
        "",
        "namespace-controller",
        &[
            on("delete get list watch", "core", "namespaces"),
            on("update", "core", "namespaces/finalize namespaces/status"),
            on("delete deletecollection get list watch", "*", "*"),
        ],
    ),
    role(
        "",
        "node-controller",
        &[
            on("delete get list patch update watch", "core", "nodes"),
            on("patch update", "core", "nodes/status"),
            on("patch update", "core", "pods/status"),
            on("delete get list watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "",
        "persistent-volume-binder",
        &[
            on("create delete get list update watch", "core", "persistentvolumes"),
            on("update", "core", "persistentvolumes/status"),
            on("get list update watch", "core", "persistentvolumeclaims"),
            on("update", "core", "persistentvolumeclaims/status"),
            on("create delete get list watch", "core", "pods"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("list watch", "core", "nodes"),
            EVENTS,
            on("watch", "core", "events"),
        ],
    ),
    role(
        "",
        "pod-garbage-collector",
        &[
            on("delete list watch", "core", "pods"),
            on(READ, "core", "nodes"),
            on("patch", "core", "pods/status"),
        ],
    ),
    role("", "pv-protection-controller", &[on("get list update watch", "core", "persistentvolumes"), EVENTS]),
    role(
        "",
        "pvc-protection-controller",
        &[
            on("get list update watch", "core", "persistentvolumeclaims"),
            on("update", "core", "persistentvolumeclaims/status"),
            on(READ, "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "",
        "replicaset-controller",
        &[
            on("get list update watch", "apps extensions", "replicasets"),
            on("update", "apps extensions", "replicasets/status"),
            on("update", "apps extensions", "replicasets/finalizers"),
            on("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "",
        "replication-controller",
        &[
            on("get list update watch", "core", "replicationcontrollers"),
            on("update", "core", "replicationcontrollers/status"),
            on("update", "core", "replicationcontrollers/finalizers"),
            on("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    role(
        "",
        "resource-claim-controller",
        &[
            on(READ, "core", "pods"),
            on("update", "core", "pods/finalizers"),
            on("create delete get list watch", "resource.k8s.io", "resourceclaims"),
            on("patch update", "resource.k8s.io", "resourceclaims resourceclaims/status"),
            on("patch update", "core", "pods/status"),
            EVENTS,
            on("patch update", "resource.k8s.io", "resourceclaims/binding"),
        ],
    ),
    role(
        "",
        "resourcequota-controller",
        &[on("list watch", "*", "*"), on("update", "core", "resourcequotas/status"), EVENTS],
    ),
    role("", "root-ca-cert-publisher", &[on("create update", "core", "configmaps"), EVENTS]),
    role(
        "",
        "route-controller",
        &[on("list watch", "core", "nodes"), on("patch", "core", "nodes/status"), EVENTS],
    ),
    role(
        "",
        "selinux-warning-controller",
        &[
            EVENTS,
            on(READ, "core", "persistentvolumes"),
            on(READ, "core", "persistentvolumeclaims"),
            on(READ, "core", "pods"),
            on(READ, "storage.k8s.io", "csidrivers"),
        ],
    ),
    role("", "service-account-controller", &[on("create", "core", "serviceaccounts"), EVENTS]),
    role(
        "",
        "service-cidrs-controller",
        &[
            on(READ_UPDATE, "networking.k8s.io", "servicecidrs"),
            on("patch update", "networking.k8s.io", "servicecidrs/finalizers"),
            on("patch update", "networking.k8s.io", "servicecidrs/status"),
            on(READ, "networking.k8s.io", "ipaddresses"),
            EVENTS,
        ],
    ),
    role(
        "",
        "service-controller",
        &[
            on(READ, "core", "services"),
            on("patch update", "core", "services/status"),
            on("list watch", "core", "nodes"),
            EVENTS,
        ],
    ),
    role(
        "",
        "statefulset-controller",
        &[
            on("list watch", "core", "pods"),
            on(READ, "apps", "statefulsets"),
            on("update", "apps", "statefulsets/status"),
            on("update", "apps", "statefulsets/finalizers"),
            on("create delete get patch update", "core", "pods"),
            on("create delete get list patch update watch", "apps", "controllerrevisions"),
            on("create get list watch", "core", "persistentvolumeclaims"),
            on("delete update", "core", "persistentvolumeclaims"),
            on("update", "core", "pods/finalizers"),
            EVENTS,
        ],
    ),
    role("", "ttl-after-finished-controller", &[on("delete get list watch", "batch", "jobs"), EVENTS]),
    role("", "ttl-controller", &[on("list patch update watch", "core", "nodes"), EVENTS]),
    role(
        "",
        "validatingadmissionpolicy-status-controller",
        &[
            on(READ, "admissionregistration.k8s.io", "validatingadmissionpolicies"),
            on("get patch update", "admissionregistration.k8s.io", "validatingadmissionpolicies/status"),
            EVENTS,
        ],
    ),
    role(
        "",
        "volumeattributesclass-protection-controller",
        &[
            on(READ, "core", "persistentvolumeclaims"),
            on(READ, "core", "persistentvolumes"),
            on("get list update watch", "storage.k8s.io", "volumeattributesclasses"),
            EVENTS,
        ],
    ),
];

/// The namespaced roles.
pub(super) const NAMESPACE_ROLES: &[RoleSpec] = &[
    role(
        "kube-public",
        "system:controller:bootstrap-signer",
        &[on(READ, "core", "configmaps"), named("update", "core", "configmaps", "cluster-info"), EVENTS],
    ),
    role(
        "kube-system",
        "extension-apiserver-authentication-reader",
        &[named(READ, "core", "configmaps", "extension-apiserver-authentication")],
    ),
    role(
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        &[
            on("create get list update watch", "coordination.k8s.io", "leases"),
            on("create get list update watch", "coordination.k8s.io", "leasecandidates"),
        ],
    ),
    role(
        "kube-system",
        "system::leader-locking-kube-scheduler",
        &[
            on("create get list update watch", "coordination.k8s.io", "leases"),
            on("create get list update watch", "coordination.k8s.io", "leasecandidates"),
        ],
    ),
    role("kube-system", "system:controller:bootstrap-signer", &[on(READ, "core", "secrets")]),
    role(
        "kube-system",
        "system:controller:cloud-provider",
        &[on("create get list watch", "core", "configmaps")],
    ),
    role(
        "kube-system",
        "system:controller:token-cleaner",
        &[on("delete get list watch", "core", "secrets"), EVENTS],
    ),
];

/// The cluster role bindings that are not a controller's.
pub(super) const CLUSTER_BINDINGS: &[BindingSpec] = &[
    bind("", "cluster-admin", "cluster-admin", &[Group("system:masters")]),
    bind("", "system:basic-user", "system:basic-user", &[Group("system:authenticated")]),
    bind("", "system:discovery", "system:discovery", &[Group("system:authenticated")]),
    bind(
        "",
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        &[User("system:kube-controller-manager")],
    ),
    bind("", "system:kube-dns", "system:kube-dns", &[Account("kube-system", "kube-dns")]),
    bind("", "system:kube-scheduler", "system:kube-scheduler", &[User("system:kube-scheduler")]),
    bind("", "system:monitoring", "system:monitoring", &[Group("system:monitoring")]),
    bind("", "system:node", "system:node", &[]),
    bind("", "system:node-proxier", "system:node-proxier", &[User("system:kube-proxy")]),
    bind(
        "",
        "system:public-info-viewer",
        "system:public-info-viewer",
        &[Group("system:authenticated"), Group("system:unauthenticated")],
    ),
    bind(
        "",
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &[Group("system:serviceaccounts")],
    ),
    bind("", "system:volume-scheduler", "system:volume-scheduler", &[User("system:kube-scheduler")]),
];

/// The namespaced role bindings.
pub(super) const NAMESPACE_BINDINGS: &[BindingSpec] = &[
    bind(
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Account("kube-system", "bootstrap-signer")],
    ),
    bind(
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &[User("system:kube-controller-manager"), User("system:kube-scheduler")],
    ),
    bind(
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &[
            User("system:kube-controller-manager"),
            Account("kube-system", "kube-controller-manager"),
            Account("kube-system", "leader-election-controller"),
        ],
    ),
    bind(
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &[User("system:kube-scheduler"), Account("kube-system", "kube-scheduler")],
    ),
    bind(
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Account("kube-system", "bootstrap-signer")],
    ),
    bind(
        "kube-system",
        "system:controller:cloud-provider",
        "system:controller:cloud-provider",
        &[Account("kube-system", "cloud-provider")],
    ),
    bind(
        "kube-system",
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &[Account("kube-system", "token-cleaner")],
    ),
];
