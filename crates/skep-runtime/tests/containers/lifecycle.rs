use crate::harness::Machine;

#[tokio::test]
async fn a_container_runs_and_its_end_is_known() {
    let Some(machine) = Machine::new() else { return };
    let pod = machine.pod("a").await;
    let (exit, output) = machine.run(&pod, machine.sh("one", "echo hello; echo oops >&2; exit 7")).await;
    assert_eq!((exit.code, exit.signal, exit.error), (7, None, None));
    assert_eq!(output, "hello\noops\n");
    machine.finish().await;
}
