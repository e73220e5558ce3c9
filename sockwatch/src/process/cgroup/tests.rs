use super::*;

const A: &str = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970";
const B: &str = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";

/// A path, with `A` and `B` for ids, and what it says: `unit=... container=RUNTIME:ID pod=...`.
#[track_caller]
fn check(path: &str, expected: &str) {
    let workload = Workload::of_path(&path.replace("{A}", A).replace("{B}", B));
    let container = |it: &Container| format!("{}:{}", it.runtime.word(), it.id.replace(A, "A").replace(B, "B"));
    let words = [
        workload.unit.map(|unit| format!("unit={unit}")),
        workload.container.map(|it| format!("container={}", container(&it))),
        workload.pod.map(|pod| format!("pod={pod}")),
    ];
    assert_eq!(words.into_iter().flatten().collect::<Vec<_>>().join(" "), expected, "{path}");
}

#[test]
fn units_of_systemd() {
    check("/system.slice/nginx.service", "unit=nginx.service");
    check("/system.slice/system-getty.slice/getty@tty1.service", "unit=getty@tty1.service");
    check("/system.slice/system-postgresql.slice/postgresql@15-main.service", "unit=postgresql@15-main.service");
    check("/system.slice/foo.service/worker", "unit=foo.service");
    check("/user.slice/user-1000.slice/session-3.scope", "unit=session-3.scope");
    check(
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
        "unit=vte-spawn-1.scope",
    );
    check("/init.scope", "unit=init.scope");
    check("/user.slice", "");
    check("/", "");
    check("", "");
}

#[test]
fn containers_of_docker() {
    check("/docker/{A}", "container=docker:A");
    check("/system.slice/docker-{A}.scope", "container=docker:A");
    check(
        "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope",
        "unit=user@1000.service container=docker:A",
    );
    check("/docker/{A}/docker/{B}", "container=docker:B");
    check("/docker/{A}/system.slice/nginx.service", "container=docker:A");
    check("/docker/buildkit/{A}", "container=docker:A");
    check("/system.slice/docker.service", "unit=docker.service");
}

#[test]
fn containers_of_podman_and_not_their_attendants() {
    check("/machine.slice/libpod-{A}.scope/container", "container=podman:A");
    check(
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container",
        "unit=user@1000.service container=podman:A",
    );
    check("/libpod_parent/libpod-{A}", "container=podman:A");
    check(
        "/machine.slice/libpod-conmon-{A}.scope",
        "unit=libpod-conmon-4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970.scope",
    );
    check("/system.slice/web.service/libpod-payload-{A}", "unit=web.service container=podman:A");
}

#[test]
fn pods_of_kubernetes_by_both_drivers() {
    let pod = "pod=2dd2e2f1-8e6c-4f5e-b3cf-1b0a8a9d8d0f";
    let (dashes, underscores) = ("2dd2e2f1-8e6c-4f5e-b3cf-1b0a8a9d8d0f", "2dd2e2f1_8e6c_4f5e_b3cf_1b0a8a9d8d0f");
    let check = |path: &str, expected: &str| {
        check(&path.replace("{D}", dashes).replace("{U}", underscores), expected);
    };
    check("/kubepods/burstable/pod{D}/{A}", &format!("container=container:A {pod}"));
    check("/kubepods/besteffort/pod{D}/{A}", &format!("container=container:A {pod}"));
    check("/kubepods/pod{D}/{A}", &format!("container=container:A {pod}"));
    check("/kubepods/pod{D}/crio-{A}", &format!("container=cri-o:A {pod}"));
    check(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{U}.slice/cri-containerd-{A}.scope",
        &format!("container=containerd:A {pod}"),
    );
    check(
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{U}.slice/crio-{A}.scope/container",
        &format!("container=cri-o:A {pod}"),
    );
    check("/kubepods.slice/kubepods-pod{U}.slice/docker-{A}.scope", &format!("container=docker:A {pod}"));
    check(
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{U}.slice/cri-containerd-{A}.scope",
        &format!("container=containerd:A {pod}"),
    );
    check(
        "/docker/{B}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{U}.slice/cri-containerd-{A}.scope",
        &format!("container=containerd:A {pod}"),
    );
    check(
        "/system.slice/containerd.service/kubepods-burstable-pod{U}.slice:cri-containerd:{A}",
        &format!("unit=containerd.service container=containerd:A {pod}"),
    );
    check("/kubepods.slice/kubepods-pod{U}.slice", pod);
    check(
        "/kubepods/burstable/podb9b9d1a66a3f4e4a9a2b6c1de2f30417/{A}",
        "container=container:A pod=b9b9d1a66a3f4e4a9a2b6c1de2f30417",
    );
}

#[test]
fn others_that_make_containers() {
    check("/system.slice/nerdctl-{A}.scope", "container=containerd:A");
    check("/lxc.payload.web/system.slice/nginx.service", "container=lxc:web");
    check("/lxc/web", "container=lxc:web");
    check("/machine.slice/systemd-nspawn@web.service/payload", "container=machine:web");
    check("/machine.slice/machine-qemu\\x2d1\\x2dweb.scope", "container=machine:qemu\\x2d1\\x2dweb");
    check("/ecs/3b1a7f0c5e6d4c8b9a0f1e2d3c4b5a69/{A}", "container=container:A");
}

#[test]
fn what_only_looks_alike_is_none() {
    check("/podium/a", "");
    check("/pod12/a", "");
    check("/system.slice/docker-short.scope", "unit=docker-short.scope");
    check("/kubepods.slice/kubepods-burstable.slice", "");
    check("/.service", "");
    check("/x/kubepods-podzz.slice:a:b", "");
}

#[test]
fn the_hierarchy_that_says_most_is_taken() {
    let path = |text| Workload::of_process(text).cgroup;
    assert_eq!(path("0::/system.slice/a.service\n").as_deref(), Some("/system.slice/a.service"));
    let hybrid = "9:name=systemd:/system.slice/b.service\n4:memory:/c\n0::/\n";
    assert_eq!(path(hybrid).as_deref(), Some("/system.slice/b.service"));
    assert_eq!(path("4:memory:/c:d\n3:cpu:/\n0::/\n").as_deref(), Some("/c:d"));
    assert_eq!(path("1:name=systemd:/b\n0::/a\n").as_deref(), Some("/a"));
    assert_eq!((path("0::/\n"), path(""), path("nonsense")), (None, None, None));
    assert_eq!(path("0::/a\x1b[31m\n").as_deref(), Some("/a?[31m"));
}

#[test]
fn ids_are_shortened_and_names_are_not() {
    let container = |id: &str| Container { runtime: Runtime::Docker, id: id.to_owned() };
    assert_eq!(container(A).short_id(), "4f797c539e6c");
    assert_eq!(container("web").short_id(), "web");
}

#[test]
fn the_cgroup_v2_mount_is_found_beside_v1() {
    let mounts = "\
        33 25 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        42 25 0:37 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    assert_eq!(cgroup2_mount(mounts), Some("/sys/fs/cgroup/unified".into()));
    assert_eq!(cgroup2_mount("33 25 0:28 / /x rw - cgroup cgroup rw\n"), None);
}

#[test]
fn the_root_is_found_by_its_id() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let Some(root) = cgroup2_mount(&mounts) else { return };
    let mut cgroups = Cgroups::default();
    assert_eq!(cgroups.path(fs::metadata(root).unwrap().ino()), Some("/"));
    assert_eq!(cgroups.path(u64::MAX), None);
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(0::)?[/:a-f0-9.\\-\\PC]{0,100}") {
        drop(Workload::of_process(&text));
        drop(Workload::of_path(&text));
    }
}
