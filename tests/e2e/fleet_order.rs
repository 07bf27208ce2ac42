//! One order to many agents.

use exhibit_tests::Fleet;

#[test]
fn one_command_collects_from_a_fleet() {
    let fleet = Fleet::start();
    let agents: Vec<_> = (0..3).map(|n| fleet.agent_named(&format!("agent-{n}"))).collect();
    for agent in &agents[..2] {
        let _ = fleet.exhibit(&["agents", "label", &agent.id, "role=web"]).ok();
    }
    let case = fleet.open_case();
    let by_label =
        fleet.exhibit(&["collect", "--case", &case, "--label", "role=web", "--capture", "system", "--reason", "x", "--watch"]).ok().json();
    let ended: std::collections::BTreeSet<&str> =
        by_label.iter().filter(|c| c["state"] == "sealed").filter_map(|c| c["agent"].as_str()).collect();
    assert_eq!(ended.len(), 2, "{by_label:#?}");
    let all = fleet.exhibit(&["collect", "--case", &case, "--all", "--capture", "system", "--reason", "x", "--watch"]).ok().json();
    assert!(all.iter().any(|c| c["state"] == "sealed" && c["agent"] == agents[2].id.as_str()), "{all:#?}");
    let report = fleet.verify(&case).expect_sound().report;
    assert_eq!(report["collections"].as_array().map(Vec::len), Some(5), "{report:#}");
    // Exhibit numbers have no holes.
    let mut numbers: Vec<u64> =
        fleet.exhibit(&["items", "--case", &case, "--reason", "test"]).ok().json().iter().filter_map(|i| i["exhibit"].as_u64()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
}
