//! What a container may see and do, and what not.

use skep_runtime::spec::*;

use crate::harness::Machine;

#[tokio::test]
async fn a_container_sees_only_itself() {
    let Some(machine) = Machine::new() else { return };
    let script = "echo pid $$; ps | wc -l; hostname; ls /; id; cat /proc/self/cgroup | head -1; \
                  ls /sys/class/net; cut -d' ' -f5 /proc/self/mountinfo | grep -vE '^/(proc|sys|dev|$)'; true";
    let (code, output) = machine.script("see", script, |_| {}).await;
    assert_eq!(code, 0, "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "pid 1");
    assert_eq!(lines[1], "4", "a header, the shell, ps and wc: {output}");
    assert_eq!(lines[2], "see-host");
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        assert!(lines.contains(&name), "{name} of {output}");
    }
    assert!(lines.contains(&"uid=0(root) gid=0(root)"), "{output}");
    assert!(output.contains("\nlo\n") && !output.contains("eth0"), "its own network: {output}");
    assert_eq!(lines.last(), Some(&"lo"), "no mount of the machine: {output}");
    machine.finish().await;
}

#[tokio::test]
async fn the_usual_privileges_are_what_they_should_be() {
    let Some(machine) = Machine::new() else { return };
    // Each line says what must not work, unless it begins with `can`.
    let script = r#"
        try() { if sh -c "$2" >/dev/null 2>&1; then echo "$1 yes"; else echo "$1 no"; fi; }
        try mount 'mount -t tmpfs none /tmp'
        try unshare 'unshare -n true'
        try sysrq 'echo h > /proc/sysrq-trigger'
        try sysctl 'echo 1 > /proc/sys/kernel/panic'
        try kcore 'head -c 1 /proc/kcore | grep .'
        try sysfs 'echo x > /sys/kernel/uevent_helper'
        try cgroup 'mkdir /sys/fs/cgroup/memory/x || mkdir /sys/fs/cgroup/x'
        try disk 'mknod /tmp/disk b 254 0 && dd if=/tmp/disk of=/dev/null bs=1 count=1'
        try kmsg 'mknod /tmp/kmsg c 1 11 && dd if=/tmp/kmsg of=/dev/null bs=1 count=1'
        try hostname 'hostname other'
        try can-null 'echo x > /dev/null'
        try can-chroot 'chroot / true'
        try can-write 'touch /tmp/x'
        try can-cgroup-read 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max'
        try can-shm 'touch /dev/shm/x'
    "#;
    let (_, output) = machine.script("may", script, |_| {}).await;
    assert_eq!(output.lines().count(), 15, "{output}");
    for line in output.lines() {
        let expected = if line.starts_with("can-") { "yes" } else { "no" };
        assert!(line.ends_with(expected), "{line}");
    }
    machine.finish().await;
}

#[tokio::test]
async fn users_capabilities_and_privileges() {
    let Some(machine) = Machine::new() else { return };
    let show = "id; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; echo $HOME; pwd";
    let (_, output) = machine
        .script("user", show, |spec| {
            spec.process.user = User { user: "web".into(), additional_gids: vec![77], ..User::default() };
            spec.process.no_new_privileges = true;
            spec.process.cwd = "/made/here".into();
        })
        .await;
    assert!(output.contains("uid=33(web) gid=34(www) groups="), "{output}");
    assert!(output.contains("50(logs)") && output.contains("77"), "{output}");
    assert!(output.contains("CapEff:\t0000000000000000"), "{output}");
    assert!(output.contains("CapBnd:\t00000000a80425fb"), "{output}");
    assert!(output.contains("NoNewPrivs:\t1") && output.contains("Seccomp:\t2"), "{output}");
    assert!(output.ends_with("/srv\n/made/here\n"), "{output}");
    // A user without no-new-privileges is filtered too.
    let (_, output) = machine
        .script("plain", show, |spec| {
            spec.process.user = User::id(1000);
            spec.process.capabilities = [Capability::NetBindService].into();
        })
        .await;
    assert!(output.contains("NoNewPrivs:\t0") && output.contains("Seccomp:\t2"), "{output}");
    assert!(output.contains("CapBnd:\t0000000000000400"), "{output}");
    let (_, output) = machine
        .script("all", show, |spec| {
            spec.process.capabilities = Capability::ALL.iter().copied().collect();
            spec.process.seccomp = Seccomp::Unconfined;
        })
        .await;
    assert!(output.contains("Seccomp:\t0") && !output.contains("CapEff:\t00000000a80425fb"), "{output}");
    let pod = machine.pod("wrong").await;
    let mut spec = machine.sh("c", "true");
    spec.process.user = User { user: "nobody".into(), ..User::default() };
    let (exit, error) = machine.run(&pod, spec).await;
    assert_eq!(exit.code, 128);
    assert!(error.contains("unable to find user nobody"), "{error}");
    machine.finish().await;
}

#[tokio::test]
async fn read_only_roots_and_volumes() {
    let Some(machine) = Machine::new() else { return };
    let volume = machine.folder.path().join("volume");
    std::fs::create_dir_all(volume.join("sub")).unwrap();
    std::fs::write(volume.join("file"), "content").unwrap();
    let bind = |target: &str, sub_path: Option<&str>, access| Mount {
        target: target.into(),
        source: MountSource::Bind { path: volume.clone(), sub_path: sub_path.map(Into::into) },
        access,
        propagation: Propagation::Private,
        ids: Ids::Machine,
    };
    let script = "touch /x && echo bad-root; touch /ro/x && echo bad-ro; touch /rro/x && echo bad-rro; \
                  cat /ro/file; echo; touch /rw/new /sub/new /deep/new && echo written; \
                  echo in-memory > /mem/x && cat /mem/x; df /mem | tail -1";
    let (_, output) = machine
        .script("ro", script, |spec| {
            spec.read_only_root = true;
            spec.mounts = vec![
                // Deeper first: the order is the runtime's business.
                Mount {
                    target: "/mem".into(),
                    source: MountSource::Tmpfs { size_bytes: Some(1 << 20), mode: 0o755 },
                    access: Access::Write,
                    propagation: Propagation::Private,
                    ids: Ids::Machine,
                },
                bind("/ro", None, Access::ReadOnly),
                bind("/rro", None, Access::RecursiveReadOnly),
                bind("/rw", None, Access::Write),
                bind("/sub", Some("sub"), Access::Write),
                bind("/deep", Some("made/on/the/way"), Access::Write),
            ];
        })
        .await;
    assert!(!output.contains("bad"), "{output}");
    assert!(
        output.contains("content\n") && output.contains("written\n") && output.contains("in-memory\n"),
        "{output}"
    );
    assert!(output.contains("1024"), "the limit of the tmpfs: {output}");
    assert!(
        volume.join("new").exists()
            && volume.join("sub/new").exists()
            && volume.join("made/on/the/way/new").exists()
    );
    machine.finish().await;
}

/// Links in a volume are the tenant's: a sub-path through them must not reach the machine's files.
#[tokio::test]
async fn sub_paths_do_not_leave_their_volume() {
    let Some(machine) = Machine::new() else { return };
    let volume = machine.folder.path().join("volume");
    let secret = machine.folder.path().join("secret");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::create_dir_all(&secret).unwrap();
    std::os::unix::fs::symlink("../secret", volume.join("relative")).unwrap();
    std::os::unix::fs::symlink(&secret, volume.join("absolute")).unwrap();
    std::fs::create_dir(volume.join("real")).unwrap();
    std::os::unix::fs::symlink("real", volume.join("inside")).unwrap();
    let pod = machine.pod("sub").await;
    let paths = [
        "relative",
        "absolute",
        "../secret",
        "real/../../secret",
        "/etc",
        "relative/new",
        "absolute/new",
        "inside",
    ];
    for (number, path) in paths.iter().enumerate() {
        let mut spec = machine.sh(&format!("c{number}"), "touch /v/was-here");
        spec.mounts = vec![Mount {
            target: "/v".into(),
            source: MountSource::Bind { path: volume.clone(), sub_path: Some(path.into()) },
            access: Access::Write,
            propagation: Propagation::Private,
            ids: Ids::Machine,
        }];
        let (exit, output) = machine.run(&pod, spec).await;
        let expected = if *path == "inside" { 0 } else { 128 };
        assert_eq!(exit.code, expected, "{path}: {output}");
    }
    assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 0, "nothing was made there");
    assert!(volume.join("real/was-here").exists());
    machine.finish().await;
}

/// An image full of links, where the runtime and volumes want to mount.
#[tokio::test]
async fn links_in_images_lead_nowhere() {
    let Some(machine) = Machine::new() else { return };
    let victim = machine.folder.path().join("victim");
    std::fs::create_dir_all(&victim).unwrap();
    let evil = machine.folder.path().join("evil");
    std::fs::create_dir_all(evil.join("etc")).unwrap();
    std::os::unix::fs::symlink(&victim, evil.join("data")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../../..", evil.join("up")).unwrap();
    std::fs::write(machine.folder.path().join("hosts"), "1.2.3.4 x\n").unwrap();
    let mount = |target: &str, path: std::path::PathBuf| Mount {
        target: target.into(),
        source: MountSource::Bind { path, sub_path: None },
        access: Access::Write,
        propagation: Propagation::Private,
        ids: Ids::Machine,
    };
    let (code, output) = machine
        .script("links", "cat /up/etc/hosts; echo x > /data/file; echo done", |spec| {
            spec.rootfs.layers.push(evil.clone());
            spec.mounts = vec![
                mount("/data", victim.clone()),
                mount("/up/etc/hosts", machine.folder.path().join("hosts")),
            ];
        })
        .await;
    // The target `/data` was made inside the container's root, where the link says; the volume is there.
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("1.2.3.4 x"), "{output}");
    assert!(victim.join("file").exists(), "through the volume, not the link");

    let proc = machine.folder.path().join("proc");
    std::fs::create_dir_all(&proc).unwrap();
    std::os::unix::fs::symlink("/tmp", proc.join("proc")).unwrap();
    let pod = machine.pod("proc").await;
    let mut spec = machine.sh("p", "true");
    spec.rootfs.layers.push(proc);
    let (exit, error) = machine.run(&pod, spec).await;
    assert_eq!(exit.code, 128);
    assert!(error.contains("/proc of the image is not a directory"), "{error}");
    for target in ["/proc/self", "/proc", "/a/../proc", "relative", "/"] {
        let mut spec = machine.sh(&format!("t{}", target.len()), "true");
        spec.mounts = vec![mount(target, victim.clone())];
        let (exit, error) = machine.run(&pod, spec).await;
        assert_eq!(exit.code, 128, "{target}: {error}");
        let _ = pod.remove_container(&format!("t{}", target.len())).await;
    }
    machine.finish().await;
}

#[tokio::test]
async fn pods_share_what_they_should() {
    let Some(machine) = Machine::new() else { return };
    let mut spec = machine.sandbox_spec("share");
    spec.pid = PidNamespace::Pod;
    spec.sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())].into();
    let pod = machine.runtime.create(spec).await.unwrap();
    pod.create(machine.sh("first", "touch /dev/shm/mark; exec sleep 1000")).await.unwrap();
    pod.start("first").await.unwrap();
    let (_, output) = machine
        .run(
            &pod,
            machine.sh(
                "second",
                "ps; ls /dev/shm; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /proc/1/root/ 2>&1; echo $$",
            ),
        )
        .await;
    assert!(output.contains("sleep 1000"), "the pod's processes: {output}");
    assert!(output.contains("mark"), "the pod's memory: {output}");
    assert!(output.contains("\n80\n"), "the pod's kernel parameters: {output}");
    assert!(output.contains("/proc/1/root/: Permission denied"), "process 1 is no way out: {output}");
    assert!(!output.contains("--directory"), "it tells nothing of the machine: {output}");
    assert_ne!(output.lines().last(), Some("1"));
    // All of a container goes when its first process goes, also without a process namespace of its own.
    let (_, _) = machine.run(&pod, machine.sh("third", "sleep 2000 & sleep 3000 & exit 0")).await;
    crate::harness::eventually("the rest of the third to go", || {
        !machine.processes().iter().any(|p| p.contains("2000") || p.contains("3000"))
    });
    machine.finish().await;
}

#[tokio::test]
async fn a_user_namespace_makes_root_nobody() {
    let Some(machine) = Machine::new() else { return };
    let mut spec = machine.sandbox_spec("userns");
    let map = IdMap { inside: 0, outside: 1_000_000, count: 65_536 };
    spec.user_namespace = Some(UserNamespace { uids: vec![map], gids: vec![map] });
    let pod = machine.runtime.create(spec).await.unwrap();
    let (exit, output) = machine
        .run(
            &pod,
            machine.sh(
                "c",
                "id; ls -ln /bin/busybox; touch /tmp/x && ls -ln /tmp/x; cat /proc/self/uid_map; hostname",
            ),
        )
        .await;
    assert_eq!(exit.code, 0, "{output} {exit:?}");
    assert!(output.contains("uid=0(root)"), "{output}");
    assert!(output.contains("1000000"), "{output}");
    assert!(output.contains("userns-host"), "{output}");
    use std::os::unix::fs::MetadataExt;
    let upper = pod.writable_layer("c");
    assert_eq!(std::fs::metadata(upper.join("tmp/x")).unwrap().uid(), 1_000_000);
    machine.finish().await;
}

/// A container whose program is the runtime itself (`/proc/self/exe`) gets hold of the file that the machine runs, and must not
/// be able to write to it.
#[tokio::test]
async fn the_runtimes_own_program_cannot_be_written() {
    let Some(machine) = Machine::new() else { return };
    let shim = std::path::Path::new(env!("CARGO_BIN_EXE_skep-shim"));
    let before = std::fs::read(shim).unwrap();
    let pod = machine.pod("self").await;
    let mut spec = machine.container("c", &["/proc/self/exe"]);
    // Whatever it can find of the machine's programs, from a container that sees all processes.
    spec.process.capabilities = Capability::ALL.iter().copied().collect();
    pod.create(spec).await.unwrap();
    let _ = pod.start("c").await;
    let mut host = machine.sandbox_spec("all");
    host.pid = PidNamespace::Host;
    let all = machine.runtime.create(host).await.unwrap();
    let script = format!("echo evil > /proc/{}/exe && echo written; true", pod.shim_pid());
    let mut spec = machine.sh("w", &script);
    spec.process.capabilities = Capability::ALL.iter().copied().collect();
    spec.process.seccomp = Seccomp::Unconfined;
    let (_, output) = machine.run(&all, spec).await;
    assert!(output.contains("Read-only file system") || output.contains("busy"), "{output}");
    assert!(!output.contains("written"), "{output}");
    assert_eq!(std::fs::read(shim).unwrap(), before);
    machine.finish().await;
}
