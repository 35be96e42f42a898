//! Examples in the help of every command: one table, which a test parses, so that what help teaches works.

use clap::Command;

/// A command's path, and lines that can be typed with what each does.
type Entry = (&'static str, &'static [(&'static str, &'static str)]);

/// Table of facts. Every command that is shown has a row.
pub(crate) const EXAMPLES: &[Entry] = &[
    (
        "agent",
        &[(
            "skep agent --kubeconfig n1.kubeconfig --node n1",
            "a node of the tenant whose credential that is, on this computer",
        )],
    ),
    (
        "apiserver",
        &[(
            "skep apiserver --data /var/lib/skep --listen 0.0.0.0:6443 --name api.example.com",
            "the API server alone, reachable from outside",
        )],
    ),
    ("bench", &[("skep bench tenants 1000", "how fast tenants are made, and deleted")]),
    (
        "bench writes",
        &[("skep bench writes 20000 --concurrency 64", "small ConfigMaps, created, updated, deleted")],
    ),
    ("bench list", &[("skep bench list /tenants/shop/api/v1/pods", "how long one long list takes")]),
    (
        "bench watch",
        &[(
            "skep bench watch 1000 --writes 2000",
            "whether 1,000 watchers see each of 2,000 writes in order",
        )],
    ),
    (
        "bench tenants",
        &[("skep bench tenants 10000 --keep", "make tenants and leave them, to see what they cost")],
    ),
    (
        "bench pods",
        &[(
            "skep bench pods --group noisy=10x900@900 --group quiet=40x10@1",
            "how long small tenants wait for their pods while large ones make thousands",
        )],
    ),
    ("bench dns", &[("skep bench dns", "how fast a machine's name server answers, on one CPU")]),
    (
        "bench containers",
        &[
            ("skep bench containers", "how fast pods start on a node, beside runc and containerd"),
            ("skep bench containers --flavor tiny --at-once 20", "on a machine of half a processor"),
        ],
    ),
    ("bench ports", &[("skep bench ports", "65,000 pods in one network: addresses, time and memory")]),
    (
        "bench services",
        &[("skep bench services", "what a change of services costs a node, and connections through them")],
    ),
    (
        "bench network",
        &[
            ("skep bench network", "bandwidth between pods, and what policies make of it"),
            ("skep bench network --only W1 --seconds 10", "guarantees, maxima and packet limits, at leisure"),
        ],
    ),
    (
        "completion",
        &[
            ("skep completion bash > /etc/bash_completion.d/skep", "for all users of bash"),
            ("skep completion zsh > ~/.zfunc/_skep", "for zsh, in a folder of its fpath"),
        ],
    ),
    (
        "config show",
        &[
            ("skep config show", "what `skep up` would run with, and why"),
            ("skep config show host -o yaml", "the same of the host daemon, for a program"),
        ],
    ),
    (
        "config example",
        &[(
            "skep config example > /etc/skep/config.toml",
            "begin with a file in which all keys are commented out",
        )],
    ),
    ("config", &[("skep config show", "what is configured, and where each value comes from")]),
    (
        "control-plane",
        &[(
            "skep control-plane --data /var/lib/skep --listen 0.0.0.0:6443",
            "API server, controllers and scheduler; hosts join with `skep host`",
        )],
    ),
    (
        "controllers",
        &[("skep controllers --kubeconfig admin.kubeconfig", "one of several controller processes")],
    ),
    (
        "demo",
        &[
            ("skep demo", "deploy the sample into two tenants and prove that they are apart"),
            ("skep demo --remove", "take it away"),
        ],
    ),
    (
        "doctor",
        &[
            ("skep doctor", "look at this computer"),
            (
                "skep doctor --listen 0.0.0.0:6443 --registry-listen 0.0.0.0:5000",
                "with the addresses that are meant",
            ),
        ],
    ),
    (
        "down",
        &[
            ("skep down", "stop everything; nothing is lost"),
            ("skep down --keep-machines", "stop the control plane only, for an upgrade: containers go on"),
        ],
    ),
    ("env", &[("eval \"$(skep env)\"", "kubectl now reaches this cloud as its operator")]),
    (
        "host",
        &[
            (
                "skep host --kubeconfig host.kubeconfig --name rack1-2",
                "make this computer a host of the cloud",
            ),
            (
                "skep host --kubeconfig host.kubeconfig --registry 10.0.0.1:5000",
                "whose machines pull from the cloud's registry",
            ),
        ],
    ),
    ("image", &[("skep image load web.tar --tenant shop", "give a tenant an image without any registry")]),
    (
        "image list",
        &[
            ("skep image list", "of this computer's store"),
            ("skep image list --registry -o json", "of the registry that `skep up` runs here"),
            ("skep image list shop/ --registry=registry.example.com:5000", "of another one, some only"),
        ],
    ),
    (
        "image load",
        &[
            (
                "skep image load web.tar --tenant shop --name example/web:1",
                "an archive of `docker save`, for one tenant",
            ),
            ("skep image load layout/ base.tar.gz", "a layout and an archive, for all tenants"),
        ],
    ),
    (
        "image push",
        &[
            (
                "skep image push web.tar 127.0.0.1:5000/shop/web:1",
                "as the operator, into the registry of `skep up`",
            ),
            (
                "skep image push web.tar 127.0.0.1:5000/shop/web:1 --kubeconfig shop.kubeconfig",
                "as the tenant",
            ),
            (
                "skep image push web.tar registry.example.com/team/web:1 --username ann --password-stdin < password",
                "to any other registry",
            ),
        ],
    ),
    ("image sample", &[("skep image sample web.tar", "an image of this program, to load or push")]),
    (
        "registry",
        &[
            (
                "skep registry --kubeconfig /var/lib/skep/admin.kubeconfig --pki /var/lib/skep/pki --listen 0.0.0.0:5000",
                "the cluster's registry, from a process of its own",
            ),
            ("skep registry --users users.txt", "a registry by itself, with its own users"),
        ],
    ),
    ("scheduler", &[("skep scheduler --kubeconfig admin.kubeconfig", "one of several scheduler processes")]),
    ("sim", &[("skep sim nodes 100 --tenant shop", "a hundred nodes without containers")]),
    (
        "sim nodes",
        &[(
            "skep sim nodes 1000 --tenant shop --kubeconfig admin.kubeconfig",
            "a thousand nodes of a tenant",
        )],
    ),
    (
        "sim hosts",
        &[("skep sim hosts 10 --boot-after-ms 4000", "ten hosts whose machines take four seconds to start")],
    ),
    ("status", &[("skep status", "what runs here"), ("skep status -o json", "the same for a program")]),
    ("tenant", &[("skep tenant create shop", "a complete, empty cluster for a customer")]),
    (
        "tenant create",
        &[
            ("skep tenant create shop", "a tenant without limits"),
            (
                "skep tenant create shop --quota pods=100 --quota requests.cpu=20 --weight 200",
                "with limits, and twice the usual share",
            ),
        ],
    ),
    (
        "tenant delete",
        &[
            ("skep tenant delete shop", "the tenant and everything in it"),
            ("skep tenant delete shop bank --no-wait", "two of them, without waiting for the end"),
        ],
    ),
    (
        "tenant kubeconfig",
        &[
            ("skep tenant kubeconfig shop > shop.kubeconfig", "all that the customer needs"),
            (
                "skep tenant kubeconfig shop --user ann --group developers --days 30",
                "for one person, for a month",
            ),
        ],
    ),
    ("tenant list", &[("skep tenant list", "a table"), ("skep tenant list -o name", "names for a script")]),
    (
        "tenant show",
        &[
            ("skep tenant show shop", "one tenant with its limits"),
            ("skep tenant show shop -o yaml", "the whole object"),
        ],
    ),
    (
        "up",
        &[
            ("skep up", "start, in the background"),
            ("skep up --foreground", "stay attached, as a service manager wants it"),
            ("skep up --public-pool 192.0.2.0/24", "with addresses for services of the type LoadBalancer"),
            ("skep up --listen 0.0.0.0:6443 --name api.example.com", "reachable from outside"),
        ],
    ),
];

fn text(entry: &[(&str, &str)]) -> String {
    let lines: Vec<String> = entry.iter().map(|(line, what)| format!("  {line}\n      {what}")).collect();
    format!("Examples:\n{}", lines.join("\n"))
}

/// Puts the examples behind each command's help.
pub(crate) fn attach(mut root: Command) -> Command {
    for (path, entry) in EXAMPLES {
        let help = text(entry);
        root = match path.split_once(' ') {
            None => root.mut_subcommand(path, |c| c.after_help(help)),
            Some((first, second)) => {
                root.mut_subcommand(first, |c| c.mut_subcommand(second, |c| c.after_help(help)))
            }
        };
    }
    root.after_help(
        "Examples:\n  skep up\n      start the whole cloud on this computer\n  skep tenant create shop && skep tenant kubeconfig shop > shop.kubeconfig\n      a customer's cluster, and the key to it\n  skep demo\n      see it work\n\nExit codes: 0 done, 1 failed, 2 wrong use, 3 not found, 4 refused, 5 not reachable, 6 done in part.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Words as a shell makes them, without what it does itself: redirections, substitutions.
    fn words(line: &str) -> Vec<String> {
        let line = line.trim_start_matches("eval \"$(").trim_end_matches(")\"");
        let line = line.split([' ']).take_while(|w| !["<", ">", "&&"].contains(w));
        line.map(str::to_owned).collect()
    }

    fn walk(command: &mut Command, path: &str, found: &mut Vec<String>) {
        let help = command.render_long_help().to_string();
        assert!(help.contains("Examples:\n  "), "skep {path} --help teaches nothing:\n{help}");
        found.push(path.to_owned());
        for sub in command.get_subcommands_mut().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name()).trim().to_owned();
            walk(sub, &path, found);
        }
    }

    #[test]
    fn every_command_teaches_with_examples_that_work() {
        let root = || attach(crate::config::prepare(crate::Cli::command()));
        let mut found = Vec::new();
        let mut built = root();
        built.build();
        walk(&mut built, "", &mut found);
        for (path, examples) in EXAMPLES {
            assert!(found.iter().any(|f| f == path), "{path} is no command that is shown");
            for (line, what) in *examples {
                assert!(!what.is_empty());
                let words = words(line);
                assert!(line.contains(&format!("skep {path}")), "{line} is no example of {path}");
                if let Err(error) = root().try_get_matches_from(&words) {
                    panic!("{line}: {error}");
                }
            }
        }
    }
}
