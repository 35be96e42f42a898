//! Probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{ExecAction, HTTPGetAction, Lifecycle, Probe, SleepAction, TCPSocketAction};

use super::view::{items, text};
use crate::field::{Errors, Path};
use crate::meta;

/// Which probe, for what only one of them may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Liveness,
    Readiness,
    Startup,
}

/// What a probe or a hook does; each has all but one of these.
#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc_port: Option<i32>,
    sleep: Option<&'a SleepAction>,
}

fn validate_http_get(get: &HTTPGetAction, path: &Path<'_>, errors: &mut Errors) {
    if text(&get.path).is_empty() {
        errors.required(&path.child("path"), "");
    }
    meta::validate_port_num_or_name(&get.port, &path.child("port"), errors);
    let scheme = text(&get.scheme);
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in items(&get.http_headers) {
        for message in meta::http_header_name_errors(&header.name) {
            errors.invalid(&path.child("httpHeaders"), &header.name, &message);
        }
    }
}

fn validate_handler(handler: &Handler<'_>, grace_s: Option<i64>, path: &Path<'_>, errors: &mut Errors) {
    let mut found = false;
    // The first one counts; what it says is checked, the others are refused.
    let mut first = |given: bool, name: &str, errors: &mut Errors| {
        if !given {
            return false;
        }
        if found {
            errors.forbidden(&path.child(name), "may not specify more than 1 handler type");
            return false;
        }
        found = true;
        true
    };
    if first(handler.exec.is_some(), "exec", errors)
        && let Some(exec) = handler.exec
        && items(&exec.command).is_empty()
    {
        errors.required(&path.child("exec").child("command"), "");
    }
    if first(handler.http_get.is_some(), "httpGet", errors)
        && let Some(get) = handler.http_get
    {
        validate_http_get(get, &path.child("httpGet"), errors);
    }
    if first(handler.tcp_socket.is_some(), "tcpSocket", errors)
        && let Some(tcp) = handler.tcp_socket
    {
        meta::validate_port_num_or_name(&tcp.port, &path.child("tcpSocket").child("port"), errors);
    }
    if first(handler.grpc_port.is_some(), "grpc", errors)
        && let Some(port) = handler.grpc_port
    {
        meta::validate_port_num(port, &path.child("grpc").child("port"), errors);
    }
    if first(handler.sleep.is_some(), "sleep", errors)
        && let Some(sleep) = handler.sleep
        && let Some(grace_s) = grace_s
        && !(0..=grace_s).contains(&sleep.seconds)
    {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_s})");
        errors.invalid(&path.child("sleep"), sleep.seconds, &detail);
    }
    if !found {
        errors.required(path, "must specify a handler type");
    }
}

/// A probe, if there is one.
pub(super) fn validate_probe(
    probe: Option<&Probe>,
    probe_use: Use,
    grace_s: Option<i64>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let Some(probe) = probe else { return };
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc_port: probe.grpc.as_ref().map(|g| g.port),
        sleep: None,
    };
    validate_handler(&handler, grace_s, path, errors);
    for (name, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        meta::validate_nonnegative(i64::from(number.unwrap_or(0)), &path.child(name), errors);
    }
    let grace_path = path.child("terminationGracePeriodSeconds");
    if let Some(grace_s) = probe.termination_grace_period_seconds {
        if grace_s <= 0 {
            errors.invalid(&grace_path, grace_s, "must be greater than 0");
        }
        if probe_use == Use::Readiness {
            errors.invalid(&grace_path, grace_s, "must not be set for readinessProbes");
        }
    }
    let successes = probe.success_threshold.unwrap_or(0);
    if probe_use != Use::Readiness && successes != 1 {
        errors.invalid(&path.child("successThreshold"), successes, "must be 1");
    }
}

/// The hooks of a container.
pub(super) fn validate_lifecycle(
    lifecycle: &Lifecycle,
    grace_s: Option<i64>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for (name, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        let Some(handler) = handler else { continue };
        let handler = Handler {
            exec: handler.exec.as_ref(),
            http_get: handler.http_get.as_ref(),
            tcp_socket: handler.tcp_socket.as_ref(),
            grpc_port: None,
            sleep: handler.sleep.as_ref(),
        };
        validate_handler(&handler, grace_s, &path.child(name), errors);
    }
}
