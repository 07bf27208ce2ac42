//! An order that a second person must approve, from the command line to the documents of the bag.

use std::time::Duration;

use crate::custody::{Person, text};
use exhibit_tests::Fleet;
use serde_json::json;

#[test]
fn an_order_waits_for_a_second_person_and_the_case_shows_both() {
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let rita = Person::enrolled(&fleet, "rita", &["--role", "responder", "--role", "custodian"]);
    let ben = Person::enrolled(&fleet, "ben", &["--role", "approver"]);
    let opened = rita.run(&["case", "open", "--title", "Two", "--legal-basis", "policy 4.2", "--two-person"]).ok().json();
    assert_eq!(opened[0]["two_person"], true);
    let case = text(&opened[0], "case");
    let source = tempfile::tempdir().expect("folder");
    std::fs::write(source.path().join("note.txt"), b"hello\n").expect("written");
    let capture = format!("files:paths={}/**", source.path().display());
    let collect = |case: &str| {
        let args =
            ["collect", "--case", case, "--agent", &agent.id, "--capture", &capture, "--max-bytes", "10M", "--reason", "suspicious login"];
        rita.run(&args).ok()
    };
    let made = collect(&case).json().remove(0);
    let (order, collection) = (text(&made["collections"][0], "order"), text(&made["collections"][0], "collection"));
    assert_eq!(made["collections"][0]["state"], "unapproved");
    assert!(text(&made["collections"][0], "reason").contains(&format!("exhibit approve {order}")), "{made}");

    let shown = ben.run(&["approve", &order]).ok().json().remove(0);
    assert!(
        text(&shown, "ordered_by").ends_with("/rita") && shown["captures"][0].as_str().is_some_and(|c| c.contains("paths=")),
        "{shown}"
    );
    assert_eq!((&shown["agents"][0], &shown["limits"]["raw_bytes_max"]), (&json!(agent.id), &json!(10 << 20)), "{shown}");
    assert!(shown["hosts"][0].as_str().is_some_and(|name| !name.is_empty()), "{shown}");
    let audrey = Person::enrolled(&fleet, "audrey", &["--role", "auditor"]);
    let looked = audrey.run(&["approve", &order]).ok().json().remove(0);
    assert!(text(&looked, "cannot_approve").contains("you may not approve it: it needs role approver in case"), "{looked}");
    let own = rita.run(&["approve", &order, "--reason", "mine"]);
    assert!(own.code == 77 && own.stderr.contains("somebody else"), "{}", own.stderr);
    assert_eq!(fleet.collection(&collection)["state"], "unapproved", "looking signs nothing");
    let _ = ben.run(&["approve", &order, "--reason", "the works council was heard"]).ok();
    let closed = fleet.wait_closed(&collection, Duration::from_mins(1));
    assert_eq!(closed["state"], "sealed", "{closed}");
    assert_eq!(ben.run(&["approve", &order, "--reason", "again"]).code, 65);

    // This host wants two persons whatever the case says.
    std::fs::write(agent.dir.join("policy.toml"), "[orders]\ntwo_person = true\n").expect("policy");
    let plain = text(&rita.run(&["case", "open", "--title", "One", "--legal-basis", "policy 4.2"]).ok().json()[0], "case");
    let refused = text(&collect(&plain).json()[0]["collections"][0], "collection");
    let refused = fleet.wait_closed(&refused, Duration::from_mins(1));
    assert!(refused["state"] == "refused" && text(&refused, "reason").contains("not-approved"), "{refused}");

    let waiting = collect(&case).json().remove(0)["collections"][0].clone();
    closed_when_nothing_waits(&rita, &ben, &case, &waiting);
    let verdict = fleet.verify(&case).expect_sound();
    assert_eq!(verdict.report["case"]["two_person"], true);
    let chain = ben.run(&["case", "custody", &case]).ok().json().remove(0);
    let approval = chain["rows"].as_array().expect("rows").iter().find(|r| r["event"] == "approval").expect("a row");
    assert!(text(approval, "by").ends_with("/ben") && text(approval, "what").contains(&order), "{approval}");
    let bag = fleet.path().join("bag");
    let _ = rita.run(&["export", "--case", &case, "--reason", "to the court", "--out", bag.to_str().expect("UTF-8")]).ok();
    for (document, words) in [
        ("report.en.html", ["Order approved by", "each needs the approval of a second person"]),
        ("report.fr.html", ["Ordre approuvé par", "seconde personne"]),
        ("chain-of-custody.en.html", ["Order approved by", "the works council was heard"]),
    ] {
        let page = std::fs::read_to_string(bag.join("documents").join(document)).expect("document");
        assert!(words.iter().all(|w| page.contains(w)), "{document}");
    }
    what_never_came_is_not_destroyed((&fleet, &rita, &ben), &case, [&collection, &text(&waiting, "collection")]);
}

/// A collection of which nothing was ever received is in no disposal, and is told as destroyed nowhere.
fn what_never_came_is_not_destroyed((fleet, rita, ben): (&Fleet, &Person<'_>, &Person<'_>), case: &str, [sealed, cancelled]: [&str; 2]) {
    let named = rita.run(&["dispose", "request", case, "--collection", cancelled, "--reason", "decision 12"]);
    let said = format!("nothing was received of {cancelled}: nothing to destroy");
    assert!(named.code == 65 && named.stderr.contains(&said), "{}: {}", named.code, named.stderr);
    let asked = rita.run(&["dispose", "request", case, "--all", "--reason", "decision 12"]).ok().json();
    let disposal = text(&asked[0], "record");
    let approve = ["dispose", "approve", case, "--disposal", &disposal];
    let shown = ben.run(&approve).ok().json().remove(0);
    let collections: Vec<String> = shown["collections"].as_array().expect("rows").iter().map(|row| text(row, "collection")).collect();
    assert_eq!(collections, [sealed]);
    let _ = ben.run(&[&approve[..], &["--reason", "checked", "--yes"]].concat()).ok();
    assert_eq!((&fleet.collection(sealed)["state"], &fleet.collection(cancelled)["state"]), (&json!("destroyed"), &json!("cancelled")));
    let bag = fleet.path().join("bag-2");
    let _ = rita.run(&["export", "--case", case, "--reason", "to the archive", "--out", bag.to_str().expect("UTF-8")]).ok();
    let report = std::fs::read_to_string(bag.join("documents/report.en.html")).expect("report");
    assert_eq!(report.matches("DESTROYED (certificate)").count(), 1);
    let handed = fleet.verify_at(&bag).expect_sound();
    let gone = |c: &serde_json::Value| (text(c, "id"), !c["disposed"].is_null());
    let found: Vec<_> = handed.report["collections"].as_array().expect("list").iter().map(gone).collect();
    assert!(found.contains(&(sealed.to_owned(), true)) && found.contains(&(cancelled.to_owned(), false)), "{found:?}");
}

/// A case is not closed over an order that waits: it is cancelled first, and then is what it is everywhere.
fn closed_when_nothing_waits(rita: &Person<'_>, ben: &Person<'_>, case: &str, waiting: &serde_json::Value) {
    let (order, collection) = (text(waiting, "order"), text(waiting, "collection"));
    let early = rita.run(&["case", "close", case, "--reason", "done"]);
    assert!(early.code == 1 && early.stderr.contains(&order) && early.stderr.contains("exhibit cancel --order"), "{}", early.stderr);
    let to_approve = |who: &Person<'_>| who.run(&["case", "custody", case]).ok().json()[0]["orders_to_approve"].clone();
    assert_eq!(to_approve(ben)[0]["order"], order.as_str());
    let cancelled = rita.run(&["cancel", "--order", &order, "--reason", "not needed any more"]).ok().json().remove(0);
    assert!(cancelled["collection"] == collection && cancelled["state"] == "cancelled", "{cancelled}");
    assert!(text(&cancelled, "reason").contains("not needed any more"), "{cancelled}");
    assert_eq!(to_approve(ben), json!([]), "nothing waits any more");
    let late = ben.run(&["approve", &order, "--reason", "too late"]);
    assert!(late.code == 65 && late.stderr.contains("at its end"), "{}", late.stderr);
    let _ = rita.run(&["case", "close", case, "--reason", "done"]).ok();
}

/// What cannot be approved is in no list of what can, with the record that says why and the command that helps.
fn nobody_is_asked_to_approve(ben: &Person<'_>, (plain, disposal): (&str, &str), (case, order): (&str, &str)) {
    let chain = |case: &str| ben.run(&["case", "custody", case]).ok().json().remove(0);
    let (asked, ordered) = (chain(plain), chain(case));
    assert_eq!((&asked["disposals_to_approve"], &asked["askers_checked"]), (&json!([]), &json!(true)), "{asked}");
    assert_eq!((&ordered["orders_to_approve"], &ordered["orders_blocked"][0]["order"]), (&json!([]), &json!(order)), "{ordered}");
    assert_eq!(asked["disposals_blocked"][0]["record"], disposal);
    let again = [format!("exhibit dispose request {plain} --collection "), format!("exhibit cancel --order {order}")];
    for (blocked, again) in [&asked["disposals_blocked"][0], &ordered["orders_blocked"][0]].into_iter().zip(again) {
        let why = text(blocked, "why");
        let said = ["can be approved by nobody: the key that ", " was revoked at ", ", record ", "(stolen)", again.as_str()];
        assert!(said.iter().all(|words| why.contains(words)), "{why}");
    }
    let listed = ben.run(&["collections", "--order", order]).ok().json().remove(0);
    assert!(text(&listed, "reason").starts_with("can be approved by nobody: the key that gave it was revoked (record "), "{listed}");
}

/// Of an order that nobody approved the documents say that no host could obey it, and nowhere that it is open.
fn the_bag_promises_nothing(fleet: &Fleet, grace: &Person<'_>, case: &str) {
    let bag = fleet.path().join("bag-unapproved");
    let _ = grace.run(&["export", "--case", case, "--reason", "to the court", "--out", bag.to_str().expect("UTF-8")]).ok();
    for name in ["report", "chain-of-custody", "certificate-902-14", "statement-27037"] {
        for (language, never, open) in [
            ("en", "ever approved; no host could obey it", [">open<", "Still open"]),
            ("fr", "amais approuvée ; aucun hôte ne pouvait l", [">en cours<", "Encore en cours"]),
        ] {
            let page = std::fs::read_to_string(bag.join(format!("documents/{name}.{language}.html"))).expect("document");
            assert!(page.contains(never) && open.iter().all(|words| !page.contains(words)), "{name}.{language}");
        }
    }
    // And whose key was revoked, in what is signed as in the report.
    for name in ["report", "certificate-902-14", "statement-27037"] {
        for (language, said) in [("en", "key REVOKED on "), ("fr", "clé RÉVOQUÉE le ")] {
            let page = std::fs::read_to_string(bag.join(format!("documents/{name}.{language}.html"))).expect("document");
            assert!(page.contains(said) && page.contains("stolen"), "{name}.{language}");
        }
    }
    let handed = fleet.verify_at(&bag).expect_sound();
    let findings = handed.report["findings"].to_string();
    assert!(findings.contains("order.unapproved") && !findings.contains("order.open"), "{findings}");
}

/// An offer of custody by a key that was revoked is shown with the record that says so, and accepted by nobody.
fn nobody_accepts_from_a_revoked_key(fleet: &Fleet, grace: &Person<'_>, case: &str) {
    let chain = grace.run(&["case", "custody", case]).ok().json().remove(0);
    let (offer, again) = (&chain["offer"], format!("another custodian of the case offers it again: exhibit transfer offer {case}"));
    let why = text(offer, "why");
    let said = ["can be accepted by nobody: the key that offered it was revoked at ", ", record ", "(stolen)", again.as_str()];
    assert!(text(offer, "to").ends_with("/grace") && said.iter().all(|words| why.contains(words)), "{offer}");
    let refused = grace.run(&["transfer", "accept", case, "--reason", "sound"]);
    let said = refused.stderr.contains("(stolen)") && refused.stderr.contains(&again);
    assert!(refused.code == 77 && said, "{}: {}", refused.code, refused.stderr);
    // An offer of somebody whose key counts takes its place; nothing is against that one.
    let hal = Person::enrolled(fleet, "hal", &["--role", "custodian"]);
    let _ = hal.run(&["transfer", "offer", case, "--to", "grace", "--reason", "in place of rita"]).ok();
    let chain = grace.run(&["case", "custody", case]).ok().json().remove(0);
    assert!(chain["offer"]["why"].is_null() && text(&chain["offer"], "to").ends_with("/grace"), "{chain}");
}

/// Whoever is to agree hears that the key of whoever asked is worth nothing any more, and an admin that a name has a key already.
#[test]
fn what_a_revoked_key_asked_for_is_told_before_anybody_signs() {
    let fleet = Fleet::start();
    let agent = fleet.agent();
    let rita = Person::enrolled(&fleet, "rita", &["--role", "responder", "--role", "custodian"]);
    let ben = Person::enrolled(&fleet, "ben", &["--role", "approver"]);
    let open = |more: &[&str]| {
        let args = [&["case", "open", "--title", "Two", "--legal-basis", "policy 4.2"][..], more].concat();
        text(&rita.run(&args).ok().json()[0], "case")
    };
    let (case, plain) = (open(&["--two-person"]), open(&[]));
    let collect = |case: &str| {
        let made = rita.run(&["collect", "--case", case, "--agent", &agent.id, "--capture", "system", "--reason", "suspicious login"]);
        made.ok().json().remove(0)["collections"][0].clone()
    };
    let order = text(&collect(&case), "order");
    let sealed = text(&collect(&plain), "collection");
    assert_eq!(fleet.wait_closed(&sealed, Duration::from_mins(1))["state"], "sealed");
    let asked = rita.run(&["dispose", "request", &plain, "--collection", &sealed, "--reason", "decision 12"]).ok().json();
    let disposal = text(&asked[0], "record");
    let grace = Person::enrolled(&fleet, "grace", &["--role", "custodian"]);
    let _ = rita.run(&["transfer", "offer", &plain, "--to", "grace", "--reason", "to the archive"]).ok();
    let _ = fleet.exhibit(&["person", "revoke", "rita", "--reason", "stolen"]).ok();

    nobody_accepts_from_a_revoked_key(&fleet, &grace, &plain);
    for look in [vec!["approve", &order], vec!["dispose", "approve", &plain, "--disposal", &disposal]] {
        let shown = ben.run(&look).ok().json().remove(0);
        assert!(text(&shown, "cannot_approve").contains("was revoked at"), "{look:?}: {shown}");
        let refused = ben.run(&[&look[..], &["--reason", "checked"]].concat());
        assert!(refused.code == 77 && refused.stderr.contains("(stolen)"), "{look:?}: {}: {}", refused.code, refused.stderr);
    }
    assert!(fleet.case_dir(&plain).join("collections").join(&sealed).exists());
    nobody_is_asked_to_approve(&ben, (&plain, &disposal), (&case, &order));
    the_bag_promises_nothing(&fleet, &grace, &case);

    // Another key under a name that has one is enrolled by nobody who was not told.
    let shown = |name: &str| fleet.path().join(name).display().to_string();
    let (dir, request, answer) = (shown("ben-2"), shown("ben-2.request"), shown("ben-2.answer"));
    let anchor = fleet.anchor().display().to_string();
    let _ = fleet.exhibit(&["person", "request", "--name", "ben", "--dir", &dir, "--anchor", &anchor, "--out", &request]).ok();
    let enroll = ["person", "enroll", &request, "--role", "auditor", "--out", &answer];
    let unasked = fleet.exhibit(&enroll);
    let said = unasked.stderr.contains("would have both") && unasked.stderr.contains("--yes");
    assert!(unasked.code == 64 && said, "{}: {}", unasked.code, unasked.stderr);
    let told = fleet.exhibit(&[&enroll[..], &["--yes"]].concat()).ok().json().remove(0);
    assert_eq!(told["other_keys"].as_array().map(Vec::len), Some(1), "{told}");
    // Rights belong to a key: which one is meant must be said, and one goes without the other.
    let key = text(&told, "key");
    let allow = ["person", "allow", "ben", "--role", "custodian"];
    let unsaid = fleet.exhibit(&allow);
    assert!(unsaid.code == 64 && unsaid.stderr.contains("has 2 keys") && unsaid.stderr.contains("--key KEY"), "{}", unsaid.stderr);
    let allowed = fleet.exhibit(&[&allow[..], &["--key", &key]].concat()).ok().json();
    assert_eq!((allowed.len(), &allowed[0]["key"]), (1, &json!(key)));
    assert_eq!(ben.run(&["whoami"]).ok().json()[0]["roles"], json!(["approver"]), "what the other key has is not the first one's");
    let revoked = fleet.exhibit(&["person", "revoke", "ben", "--key", &key, "--reason", "not needed"]).ok().json();
    assert_eq!((revoked.len(), &revoked[0]["key"]), (1, &json!(key)));
    let _ = ben.run(&["whoami"]).ok();

    // What is not there is not empty.
    let unknown = exhibit_evidence::CaseId::new(7, [7; 10]).to_string();
    assert_eq!(fleet.exhibit(&["collections", "--case", &unknown]).code, 65);
}

/// Custody that nobody can hand over any more is told before somebody tries, with the way out.
#[test]
fn custody_of_somebody_without_a_key_is_told_with_the_way_out() {
    let fleet = Fleet::start();
    let rita = Person::enrolled(&fleet, "rita", &["--role", "responder", "--role", "custodian"]);
    let hal = Person::enrolled(&fleet, "hal", &["--role", "custodian"]);
    let opened = rita.run(&["case", "open", "--title", "Kept", "--legal-basis", "policy 4.2"]).ok().json();
    let case = text(&opened[0], "case");
    let mia = Person::enrolled(&fleet, "mia", &["--role", "auditor", "--case", &case]);
    let _ = rita.run(&["transfer", "offer", &case, "--to", "hal", "--reason", "to the archive"]).ok();
    let _ = hal.run(&["transfer", "accept", &case, "--reason", "sound"]).ok();
    let blocked = |person: &Person| {
        let chain = person.run(&["case", "custody", &case]).ok().json().remove(0);
        assert!(text(&chain, "custodian").ends_with("/hal"), "{chain}");
        chain["custodian_blocked"].clone()
    };
    assert!(blocked(&rita).is_null());
    let _ = fleet.exhibit(&["person", "revoke", "hal", "--reason", "left"]).ok();
    let why = blocked(&rita).to_string();
    let said = ["every key of spiffe://", "/hal was revoked (last by record ", " of the deployment's log)", "exhibit person request"];
    assert!(said.iter().all(|words| why.contains(words)), "{why}");
    let picture = fleet.path().join("stuck.svg").display().to_string();
    let _ = rita.run(&["case", "custody", &case, "--svg", &picture]).ok();
    let drawn = std::fs::read_to_string(&picture).expect("drawn");
    assert!(drawn.contains("WARNING: every key of spiffe://"), "{drawn}");
    // Whose role is limited to the case hears it from the case's own log, which has it from the next record on.
    let _ = rita.run(&["case", "hold", &case, "--reason", "a claim was announced"]).ok();
    let why = blocked(&mia).to_string();
    assert!(why.contains("every key of ") && why.contains(" of the case's log"), "{why}");
}
