//! Who may not, may not: identities, tokens, orders and the host's own policy.

use std::process::Command;

use exhibit_tests::{Finished, Fleet};

#[test]
fn a_token_works_once_and_expires() {
    let fleet = Fleet::start();
    let (token, ca) = fleet.token(&[]);
    let enroll = |name: &str, token: &str, ca: &str| {
        let dir = fleet.path().join(name);
        let done = Finished::of(
            fleet
                .program("exhibit-agent")
                .arg("enroll")
                .args(["--coordinator", &fleet.address(), "--ca-sha256", ca, "--token", token])
                .arg("--dir")
                .arg(&dir),
        );
        (done, dir)
    };
    let (first, dir) = enroll("a", &token, &ca);
    let _ = first.ok();
    for key in std::fs::read_dir(&dir)
        .expect("list")
        .filter_map(Result::ok)
        .filter(|e| e.path().extension().is_some_and(|x| x == "key") || e.file_name() == "tls.pem")
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(key.metadata().expect("stat").permissions().mode() & 0o777, 0o600, "{:?}", key.path());
    }
    let (again, _) = enroll("b", &token, &ca);
    assert_ne!(again.code, 0, "a used token");
    assert!(again.stderr.contains("token"), "{}", again.stderr);
    let (wrong, _) = enroll("c", "not-a-token", &ca);
    assert!(wrong.code != 0 && wrong.stderr.contains("token"), "{}", wrong.stderr);
    let (fresh, _) = fleet.token(&[]);
    let (pin, _) = enroll("d", &fresh, &"0".repeat(64));
    assert!(pin.code != 0 && pin.stderr.to_lowercase().contains("sha-256"), "{}", pin.stderr);
    let (same_dir, _) = enroll("a", &fresh, &ca);
    assert_ne!(same_dir.code, 0, "an identity is never overwritten");
}

#[test]
fn no_or_foreign_certificates_reach_nothing() {
    let fleet = Fleet::start();
    let port = fleet.address().rsplit(':').next().expect("port").to_owned();
    let target = format!("127.0.0.1:{port}");
    // Without a certificate, and below TLS 1.3.
    for extra in [&["-alpn", "h2"][..], &["-tls1_2", "-alpn", "h2"][..]] {
        let done = Finished::of(Command::new("openssl").args(["s_client", "-connect", &target, "-ign_eof"]).args(extra));
        let said = format!("{}{}", done.text(), done.stderr);
        assert!(said.contains("alert") || done.code != 0, "{said}");
    }
    // A responder of another deployment.
    let other = Fleet::start();
    let home = other.home();
    let config = std::fs::read_to_string(home.join("config.toml")).expect("config");
    std::fs::write(home.join("config.toml"), config.replace(&other.address(), &fleet.address())).expect("config");
    let done = other.exhibit(&["case", "list"]);
    assert!(matches!(done.code, 69 | 77), "{}: {}", done.code, done.stderr);
    // An agent's certificate does not make a responder.
    let (agent_dir, enrolled) = fleet.enroll("a");
    let _ = enrolled.ok();
    let disguise = fleet.path().join("disguise");
    std::process::Command::new("cp").arg("-r").arg(fleet.home()).arg(&disguise).status().expect("cp");
    // The TLS identity and all that must agree with it, but for the coordinator's address.
    for name in ["tls.pem", "evidence.key", "enrolments"] {
        let _ = Finished::of(Command::new("cp").arg("-rfT").arg(agent_dir.join(name)).arg(disguise.join(name))).ok();
    }
    let done = Finished::of(fleet.program("exhibit").args(["--json", "case", "list"]).env("EXHIBIT_HOME", &disguise));
    assert_eq!(done.code, 77, "{}{}", done.text(), done.stderr);
}

#[test]
fn the_hosts_own_policy_is_obeyed_and_the_refusal_is_recorded() {
    let fleet = Fleet::start();
    let mut agent = fleet.agent();
    agent.kill();
    std::fs::write(agent.dir.join("policy.toml"), "captures = [\"system\"]\n").expect("policy");
    agent.restart();
    fleet.wait_online(&agent);
    let case = fleet.open_case();
    let refused = fleet.collect(&case, &agent, &["--capture", "network"]);
    assert_eq!(refused["state"], "refused", "{refused}");
    assert!(refused["reason"].as_str().is_some_and(|r| r.contains("network")), "{refused}");
    let allowed = fleet.collect(&case, &agent, &["--capture", "system"]);
    assert_eq!(allowed["state"], "sealed", "{allowed}");
    let report = fleet.verify(&case).expect_sound().report;
    assert!(report.to_string().contains("refused"), "{report:#}");
}

#[test]
fn orders_expire_and_revoked_agents_are_cut() {
    let fleet = Fleet::start();
    let mut agent = fleet.agent();
    agent.kill();
    let case = fleet.open_case();
    let expired = fleet.collect(&case, &agent, &["--capture", "system", "--expires", "1s"]);
    assert_eq!(expired["state"], "expired", "{expired}");
    agent.restart();
    fleet.wait_online(&agent);
    let _ = fleet.exhibit(&["agents", "revoke", &agent.id, "--reason", "test"]).ok();
    exhibit_tests::wait_until(std::time::Duration::from_secs(10), "the agent is cut", || {
        fleet.agents().iter().any(|a| a["state"] == "revoked")
    });
    let refused = fleet.exhibit(&["collect", "--case", &case, "--agent", &agent.id, "--capture", "system", "--reason", "x"]);
    assert!(refused.code != 0 && refused.stderr.contains("revoked"), "{}", refused.stderr);
    let _ = fleet.exhibit(&["case", "close", &case, "--reason", "done"]).ok();
    let other = fleet.agent_named("second");
    let closed = fleet.exhibit(&["collect", "--case", &case, "--agent", &other.id, "--capture", "system", "--reason", "x"]);
    assert!(closed.code != 0 && closed.stderr.contains("closed"), "{}", closed.stderr);
    let _ = fleet.verify(&case).expect_sound();
}
