//! `exhibit person`: how people come in. The new person makes keys and a request, an admin signs the enrolment, the person takes
//! the answer. Request and answer hold no secret; both are checked on both sides, and nothing rests on the way that they took.

use std::path::Path;

use exhibit_certs::credential::{Credential, Pending, TlsIdentity};
use exhibit_certs::files;
use exhibit_certs::name::{PeerName, PersonName};
use exhibit_certs::person as exchange;
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::PublicKey;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{Enrolment, Record, Revocation, Role, Verified};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CaseId, Digest};
use exhibit_proto::responder::v1 as pb;
use serde_json::json;

use super::cases::{show, sign};
use super::confirm::confirmed;
use super::keeping::full_name;
use super::log;
use crate::args::person::PersonCommand;
use crate::clock;
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;

/// Runs a person command.
pub async fn run(home: Option<&Path>, command: PersonCommand, out: &Output) -> Result<Code> {
    match command {
        PersonCommand::Request { name, dir, anchor, out: file } => request(&name, &dir, &anchor, &file, out)?,
        PersonCommand::Accept { answer, dir, anchor } => accept(&answer, &dir, &anchor, out)?,
        PersonCommand::Enroll { request, roles, cases, out: file, yes } => {
            let mut connection = Connection::open(home).await?;
            enroll(&mut connection, &request, (&roles, &cases), (&file, yes), out).await?;
        }
        PersonCommand::Allow { name, key, roles, cases } => {
            let mut connection = Connection::open(home).await?;
            allow(&mut connection, (&name, key), (&roles, &cases), out).await?;
        }
        PersonCommand::Revoke { name, key, reason } => {
            let mut connection = Connection::open(home).await?;
            revoke(&mut connection, (&name, key), &reason, out).await?;
        }
        PersonCommand::List => {
            let mut connection = Connection::open(home).await?;
            list(&mut connection, out).await?;
        }
    }
    Ok(Code::Ok)
}

fn input(what: &str, e: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Input, format!("{what}: {}", escape_bounded(&e.to_string(), 400)))
}

fn read_anchor(path: &Path) -> Result<Anchor> {
    let bytes = files::read(path).map_err(|e| input("--anchor", e))?;
    Anchor::parse(&bytes).map_err(|e| input("--anchor", e))
}

fn write(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let bytes = exchange::to_file(value).map_err(|e| Failure::new(Code::Failure, e.to_string()))?;
    log::write_new(path, &bytes)
}

fn bad(e: &exchange::BadExchange) -> Failure {
    Failure::new(Code::Input, e.to_string())
}

/// Order: keys into the folder, then the request. A repeat takes up the same keys.
fn request(name: &str, dir: &Path, anchor: &Path, file: &Path, out: &Output) -> Result<()> {
    let anchor = read_anchor(anchor)?;
    let name: PersonName = name.parse().map_err(|e| input("--name", e))?;
    let name = PeerName::Responder(anchor.deployment.parse().map_err(|e| input("--anchor", e))?, name);
    let seed = clock::random_32().map_err(|e| Failure::new(Code::Failure, format!("cannot draw random bytes: {e}")))?;
    let pending = Pending::take_up(dir, &seed).map_err(|e| Failure::new(Code::CannotCreate, e.to_string()))?;
    let request = exchange::Request::new(&pending, &name).map_err(|e| Failure::new(Code::Failure, e.to_string()))?;
    let key = pending.evidence.public();
    write(file, &request)?;
    show(&json!({"name": name.to_string(), "key": key.id().to_string(), "request": file.display().to_string()}), out)?;
    out.note("send the request to an admin, and read out the key to them on another way; they run: exhibit person enroll REQUEST --role ROLE --out ANSWER");
    Ok(())
}

fn roles_of(texts: &[String]) -> Result<Vec<Role>> {
    let mut roles: Vec<Role> =
        texts.iter().map(|t| serde_json::from_value(json!(t)).map_err(|e| input("--role", e))).collect::<Result<_>>()?;
    roles.sort_unstable();
    roles.dedup();
    Ok(roles)
}

fn cases_of(texts: &[String]) -> Result<Option<Vec<CaseId>>> {
    let mut cases: Vec<CaseId> = texts.iter().map(|t| parse_id(t)).collect::<Result<_>>()?;
    cases.sort_unstable();
    cases.dedup();
    if cases.len() > Enrolment::CASES_MAX {
        return Err(input("--case", format!("{} cases: at most {} in one enrolment", cases.len(), Enrolment::CASES_MAX)));
    }
    Ok((!cases.is_empty()).then_some(cases))
}

fn signed(connection: &Connection, name: &PeerName, key: PublicKey, (roles, cases): (&[String], &[String])) -> Result<Vec<u8>> {
    let (roles, cases) = (roles_of(roles)?, cases_of(cases)?);
    let record = connection.enroller().enrol_in(name, key, (&roles, cases), "admin", clock::now());
    Ok(record.map_err(|e| Failure::new(Code::Usage, e.to_string()))?.as_bytes().to_vec())
}

/// What the admin types who gives a name another key.
const SECOND_KEY: &str = "both";

/// Each key has its own rights, and whoever holds one signs in the name: whoever enrols another one hears of those that are there,
/// and agrees. Gives them.
async fn another_key(connection: &mut Connection, (name, key): (&str, &PublicKey), yes: bool, out: &Output) -> Result<Vec<String>> {
    let known: Vec<Person> = people(connection).await?.into_iter().filter(|p| !p.revoked && p.name == name && p.key != *key).collect();
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = known.iter().map(|p| p.key.id().to_string()).collect();
    let name = escape_bounded(name, 200);
    out.note(&format!(
        "WARNING: {name} is enrolled already, with key {}. With this request the name has both: each may do what its own roles allow, \
         and whoever holds either signs in this name. If it is the same person with a new key, revoke the old one afterwards: exhibit \
         person revoke NAME --key OLD --reason ...; if it is somebody else, they need another name",
        keys.join(", ")
    ));
    let message = format!("nothing is signed: {name} has a key already and would have both, and nobody can be asked here");
    let unasked = Failure::new(Code::Usage, message).hint("exhibit person list; a script that means it gives --yes");
    confirmed(yes, &format!("Type '{SECOND_KEY}' to enrol this key beside what is there"), SECOND_KEY, unasked)?;
    Ok(keys)
}

async fn enroll(
    connection: &mut Connection,
    file: &Path,
    rights: (&[String], &[String]),
    (answer, yes): (&Path, bool),
    out: &Output,
) -> Result<()> {
    let deployment = connection.deployment().parse().map_err(|e| input("deployment", e))?;
    let exchange::Asked { name, key, tls_csr } = exchange::Request::open(file, &deployment).map_err(|e| bad(&e))?;
    log::check_new(answer)?;
    let others = another_key(connection, (&name.to_string(), &key), yes, out).await?;
    let enrolment = signed(connection, &name, key, rights)?;
    let made = connection.rpc().enroll_person(pb::EnrollPersonRequest { enrolment, tls_csr }).await?.into_inner();
    write(answer, &exchange::Answer::new(connection.address(), &made.tls_chain, &made.tls_root, &made.enrolments))?;
    let key = key.id().to_string();
    show(
        &json!({
            "name": name.to_string(), "key": key, "other_keys": others, "roles": rights.0, "cases": rights.1,
            "answer": answer.display().to_string(),
        }),
        out,
    )?;
    let short = name.short();
    out.note(&format!(
        "if this is not the key that the person read out to you, revoke it now: exhibit person revoke {short} --key {key} --reason ..."
    ));
    out.note("give the answer to the person, who runs: exhibit person accept ANSWER --dir DIR --anchor ANCHOR");
    Ok(())
}

/// Order: the coordinator's address, then the credential (anchor last, which marks it as finished), then the pending keys go.
fn accept(file: &Path, dir: &Path, anchor: &Path, out: &Output) -> Result<()> {
    let anchor = read_anchor(anchor)?;
    let answer = exchange::Answer::open(file).map_err(|e| bad(&e))?;
    let _: exhibit_proto::transport::client::Address =
        answer.coordinator.parse().map_err(|e| input("ANSWER: coordinator", format!("{e}")))?;
    let pending = Pending::take_up(dir, &clock::random_32().map_err(|e| Failure::new(Code::Failure, e.to_string()))?)
        .map_err(|e| Failure::new(Code::CannotCreate, e.to_string()))?;
    let tls = TlsIdentity::from_der(pending.tls, &answer.tls_chain).map_err(|e| input("ANSWER: tls_chain", e))?;
    let root = exhibit_certs::credential::certificate(answer.tls_root);
    // Checks everything against the anchor that the person got elsewhere.
    let credential = Credential::new(anchor, root, tls, pending.evidence, answer.enrolments).map_err(|e| input("ANSWER", e))?;
    let config = format!(
        "# Where the coordinator listens: HOST:PORT, or [\"HOST:PORT\", ...] for several, which are tried in turn.\ncoordinator = \"{}\"\n",
        answer.coordinator
    );
    files::replace(&dir.join("config.toml"), config.as_bytes(), files::Access::Public)
        .and_then(|()| Pending::finish(&credential, dir))
        .map_err(|e| Failure::new(Code::CannotCreate, e.to_string()))?;
    show(&json!({"name": credential.name().to_string(), "home": dir.display().to_string(), "coordinator": answer.coordinator}), out)?;
    out.note(&format!("next: export EXHIBIT_HOME={} && exhibit whoami", dir.display()));
    Ok(())
}

/// Everybody who is enrolled, from the deployment's verified log.
struct Person {
    name: String,
    key: PublicKey,
    enrolment: Digest,
    rights: Vec<(Vec<Role>, Option<Vec<CaseId>>)>,
    revoked: bool,
}

async fn people(connection: &mut Connection) -> Result<Vec<Person>> {
    let mut people: Vec<Person> = Vec::new();
    let mut each = |_: u64, verified: &Verified, envelope: &Envelope| -> Result<()> {
        match verified.record() {
            Record::Enrolment(p) if p.name.parse::<PeerName>().is_ok_and(|n| n.responder().is_some()) => {
                let right = (p.roles.clone(), p.cases.clone());
                match people.iter_mut().find(|known| known.key == p.key) {
                    Some(known) => known.rights.push(right),
                    None => people.push(Person {
                        name: p.name.clone(),
                        key: p.key,
                        enrolment: envelope.digest(),
                        rights: vec![right],
                        revoked: false,
                    }),
                }
            }
            Record::Revocation(p) => {
                people.iter_mut().filter(|known| known.key.id() == p.key).for_each(|known| known.revoked = true);
            }
            _ => {}
        }
        Ok(())
    };
    log::read_all(connection, &LogName::Deployment, &mut each).await?;
    Ok(people)
}

/// The keys of a person that count, or the one that was named.
async fn keys_of(connection: &mut Connection, (name, key): (&str, Option<Digest>)) -> Result<Vec<Person>> {
    let name = full_name(connection, name);
    let counts = |p: &Person| p.name == name && !p.revoked && key.is_none_or(|key| p.key.id() == key);
    let found: Vec<Person> = people(connection).await?.into_iter().filter(counts).collect();
    if found.is_empty() {
        let shown = escape_bounded(&name, 200);
        let message = match key {
            Some(key) => format!("--key: {key} is no key of '{shown}' that is enrolled and not revoked"),
            None => format!("'{shown}' has no key that is enrolled and not revoked"),
        };
        return Err(Failure::new(Code::Input, message).hint("exhibit person list"));
    }
    Ok(found)
}

/// Rights belong to a key: of several the one that is meant must be named.
fn only_one(found: Vec<Person>) -> Result<Person> {
    let keys: Vec<String> = found.iter().map(|p| p.key.id().to_string()).collect();
    let name = found.first().map(|p| escape_bounded(&p.name, 200)).unwrap_or_default();
    let [person] = <[Person; 1]>::try_from(found).map_err(|_| {
        let message = format!("--key: {name} has {} keys, and rights belong to a key: {}", keys.len(), keys.join(", "));
        Failure::new(Code::Usage, message)
            .hint("the same command with --key KEY, for each key that is meant; exhibit person list shows what each may")
    })?;
    Ok(person)
}

async fn allow(connection: &mut Connection, whom: (&str, Option<Digest>), rights: (&[String], &[String]), out: &Output) -> Result<()> {
    let person = only_one(keys_of(connection, whom).await?)?;
    let peer: PeerName = person.name.parse().map_err(|e: exhibit_certs::name::BadName| input("NAME", e))?;
    let enrolment = signed(connection, &peer, person.key, rights)?;
    let sent = connection.rpc().enroll_person(pb::EnrollPersonRequest { enrolment, tls_csr: Vec::new() }).await;
    sent.map_err(|status| Failure::from(status).unsure("the roles were given", "exhibit person list"))?;
    show(&json!({"name": person.name, "key": person.key.id().to_string(), "roles": rights.0, "cases": rights.1}), out)
}

async fn revoke(connection: &mut Connection, whom: (&str, Option<Digest>), reason: &str, out: &Output) -> Result<()> {
    for person in keys_of(connection, whom).await? {
        let revocation = Revocation {
            deployment: connection.deployment().to_owned(),
            key: person.key.id(),
            predecessor: person.enrolment,
            reason: reason.to_owned(),
            revoked_at: clock::now(),
        };
        let revocation = sign(connection, &revocation)?;
        let sent = connection.rpc().revoke_person(pb::RevokePersonRequest { revocation }).await;
        sent.map_err(|status| Failure::from(status).unsure("the key was revoked", "exhibit person list"))?;
        show(&json!({"name": person.name, "key": person.key.id().to_string(), "state": "revoked"}), out)?;
    }
    Ok(())
}

async fn list(connection: &mut Connection, out: &Output) -> Result<()> {
    let mut rows = Vec::new();
    for person in people(connection).await? {
        let state = if person.revoked { "revoked" } else { "enrolled" };
        for (roles, cases) in &person.rights {
            rows.push(json!({"name": person.name, "roles": roles, "cases": cases, "state": state, "key": person.key.id().to_string()}));
        }
    }
    out.rows(&[("name", "name"), ("roles", "roles"), ("cases", "cases"), ("state", "state"), ("key", "key")], &rows)
}
