use super::*;
use crate::store::{LockMode, LockPolicy};

#[test]
fn a_rate_on_the_command_line_is_as_in_the_configuration_or_in_bytes() {
    for (text, bytes) in [("20MiB/s", 20 << 20), ("512 KiB/s", 512 << 10), ("1048576", 1 << 20)] {
        assert_eq!(text.parse(), Ok(Rate(bytes)), "{text}");
    }
    for bad in ["", "0", "8M", "-1", "0MiB/s", "20MB/s"] {
        let why = bad.parse::<Rate>().expect_err(bad);
        assert!(why.contains("like \"20MiB/s\", or a number of bytes"), "{why}");
    }
}

fn s3() -> Config {
    Config {
        names: vec!["c.example.org".to_owned(), "192.0.2.7".to_owned(), "2001:db8::1".to_owned()],
        paths: Paths { catalog: Some(PathBuf::from("index.sqlite")), ..Paths::default() },
        store: StoreConfig {
            kind: StoreKind::S3,
            bucket: "evidence".to_owned(),
            prefix: "a/b".to_owned(),
            endpoint: Some("http://127.0.0.1:9000".to_owned()),
            dangerous_allow_http: true,
            access_key_id: Some("we\"ird\\id".to_owned()),
            secret_access_key_file: Some(PathBuf::from("secret")),
            lock: Some(LockPolicy { mode: LockMode::Governance, days: 30 }),
            ..StoreConfig::default()
        },
        http: Http { listen: Some(([127, 0, 0, 1], 9).into()) },
        audit: AuditConfig {
            syslog: Some("udp://siem.example.org:514".to_owned()),
            otlp: Some("http://127.0.0.1:4318".to_owned()),
            metrics_s: 30,
        },
        log: Log { level: "debug".to_owned(), format: LogFormat::Json },
        ..Config::default()
    }
}

fn postgres() -> Config {
    let catalog = CatalogConfig {
        postgres: Some("postgres://exhibit@db.example.org/exhibit?sslrootcert=ca.pem".to_owned()),
        password_file: Some(PathBuf::from("secret")),
        dangerous_allow_unverified: false,
    };
    Config { catalog, ..Config::default() }
}

#[test]
fn the_documented_file_says_what_it_was_made_from() {
    for config in [Config::default(), s3(), postgres()] {
        assert_eq!(Config::parse(&config.documented()), Ok(config.clone()), "{}", config.documented());
    }
    assert_eq!(Config::parse(""), Ok(Config::default()), "an empty file is the default");
}

/// Every key of the struct is in the documented file, and each has a comment above it.
#[test]
fn every_key_is_documented() {
    let text = Config { paths: s3().paths, store: s3().store, audit: s3().audit, ..postgres() }.documented();
    let mut keys = Vec::new();
    let mut before = "";
    for line in text.lines() {
        if let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            assert!(before.starts_with('#'), "{key} has no comment");
            keys.push(key.trim().to_owned());
        }
        before = line;
    }
    let debug = format!("{:?}", Config { store: StoreConfig::default(), ..Config::default() });
    for key in debug.split(['{', ',', ' ']).filter_map(|w| w.strip_suffix(':')).filter(|k| {
        !matches!(
            *k,
            "folder"
                | "paths"
                | "store"
                | "copy"
                | "verify"
                | "limits"
                | "certificates"
                | "tokens"
                | "log"
                | "http"
                | "orders"
                | "witness"
                | "timestamp"
                | "audit"
                | "prices"
        )
    }) {
        assert!(keys.iter().any(|k| k == key), "{key} is not in the documented file");
    }
    assert_eq!(keys.len(), 2 + 2 + 3 + 13 + 2 + 2 + 5 + 1 + 1 + 1 + 3 + 4 + 2 + 1);
}

#[test]
fn upkeep_is_read_in_the_units_that_people_write() {
    let text = "[copy]\nevery = \"90m\"\nrate = \"1 GiB/s\"\n[copy.store]\npath = \"/mnt/copy/exhibit\"\n[verify]\nevery = \"7d\"\nsample = \"all\"\nrate = \"512KiB/s\"\n";
    let config = Config::parse(text).expect("good");
    assert_eq!((config.copy.every.0.as_secs(), config.copy.rate.0), (5_400, 1 << 30));
    assert_eq!(config.copy.store.as_ref().map(|s| s.path.clone()), Some(PathBuf::from("/mnt/copy/exhibit")));
    let schedule = config.verification().expect("scheduled");
    assert_eq!((schedule.every.as_secs(), schedule.depth, schedule.rate), (7 * 86_400, crate::reverify::Depth::All, Some(512 << 10)));
    assert_eq!(Config::default().verification(), None, "only who asks for it has it");
}

#[test]
fn timestamp_authorities_are_read_and_written_back() {
    let text = "[[timestamp]]\nname = \"a\"\nurl = \"http://tsa.example/\"\nca = \"a.pem\"\n\n[[timestamp]]\nname = \"b\"\nurl = \"https://b.example/\"\nca = \"b.pem\"\ntls_ca = \"b-tls.pem\"\ncrls = [\"http://b.example/crl\"]\ninterval_s = 7\n";
    let config = Config::parse(text).expect("good");
    assert_eq!((config.timestamp.len(), config.timestamp[0].interval_s, config.timestamp[1].interval_s), (2, 300, 7));
    assert_eq!(Config::parse(&config.documented()).map(|c| c.timestamp), Ok(config.timestamp.clone()));
    // The roots are read when the program starts: what is not there is named.
    let e = config.authorities().expect_err("no file").to_string();
    assert!(e.starts_with("timestamp.ca: a.pem: ") && e.contains("authority 'a'"), "{e}");
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("a.pem"), "nothing").expect("written");
    let e = Config { folder: dir.path().to_owned(), ..config }.authorities().expect_err("no certificate").to_string();
    assert!(e.contains("there is no certificate in it"), "{e}");
}

#[test]
fn errors_name_line_key_value_and_remedy() {
    let cases = [
        ("listen = \"nowhere\"", ":1: ", "listen"),
        ("\n\nlisten_on = \"127.0.0.1:1\"", ":3: ", "unknown field `listen_on`"),
        ("[limits]\nuploads_max = 0", ":2: ", "limits.uploads_max: 0 is out of range: expected 1 to 10000 uploads"),
        ("[limits]\nuploads_max = \"many\"", ":2: ", "many"),
        ("[[timestamp]]\nname = \"A\"\nurl = \"http://x\"\nca = \"x\"", ":2: ", "timestamp.name: 'A' is no name of an authority"),
        ("[[timestamp]]\nname = \"a\"\nurl = \"x\"\nca = \"x\"", ":3: ", "timestamp.url: 'x'"),
        (
            "[[timestamp]]\nname = \"a\"\nurl = \"http://x\"\nca = \"x\"\ntls_ca = \"y\"",
            ":5: ",
            "timestamp.tls_ca: authority 'a' has no https:// address",
        ),
        ("[[timestamp]]\nname = \"a\"\nurl = \"http://x\"", ":1: ", "missing field `ca`"),
        ("[store]\nkind = \"ftp\"", ":2: ", "expected one of `local`, `s3`, `google`, `azure`"),
        ("[store]\nkind = \"s3\"", ":1: ", "store.bucket: is empty"),
        ("[store]\nkind = \"s3\"\nbucket = \"b\"\nendpoint = \"http://x\"", ":4: ", "dangerous_allow_http"),
        ("[store]\nkind = \"s3\"\nbucket = \"b\"\naccess_key_id = \"x\"", ":4: ", "belong together"),
        ("[catalog]\npostgres = \"mysql://u@h/d\"", ":2: ", "catalog.postgres: is no postgres:// address"),
        ("[catalog]\npostgres = \"postgres://h/d\"", ":2: ", "names no user, host or database"),
        ("[catalog]\npostgres = \"postgres://u@h/d?sslmode=require\"", ":2: ", "dangerous_allow_unverified"),
        ("[catalog]\npostgres = \"postgres://u@h/d?timeout=1\"", ":2: ", "parameter 'timeout' is not known"),
        ("[paths]\ncatalog = \"x\"\n[catalog]\npostgres = \"postgres://u@h/d\"", ":4: ", "paths.catalog names a file"),
        ("[catalog]\npassword_file = \"x\"", ":2: ", "belongs to catalog.postgres"),
        ("[store]\nlock = { mode = \"compliance\", days = 1 }", ":2: ", "store.lock: is for s3"),
        ("[store]\nkind = \"google\"\nbucket = \"b\"\nlock = { mode = \"compliance\", days = 36501 }", ":4: ", "store.lock: 36501 is out"),
        ("[store]\nkind = \"azure\"\nbucket = \"b\"\nlock = { mode = \"hard\", days = 1 }", ":4: ", "expected `governance`"),
        ("[store]\nkind = \"s3\"\nbucket = \"b\"\nlock = { mode = \"hard\", days = 1 }", ":4: ", "expected `governance` or `compliance`"),
        ("[store]\nkind = \"s3\"\nbucket = \"b\"\nlock = { mode = \"governance\", days = 0 }", ":4: ", "store.lock: 0 is out of range"),
        ("[store]\nkind = \"azure\"\nbucket = \"b\"", ":1: ", "store.account: is empty: name the storage account"),
        (
            "[store]\nkind = \"azure\"\nbucket = \"b\"\nendpoint = \"https://h:1\"",
            ":1: ",
            "store.account: is empty, and the account is not taken from store.endpoint 'https://h:1': name the storage account",
        ),
        ("[store]\nkind = \"azure\"\nbucket = \"b\"\nendpoint = \"https://me:secret@h\"", ":1: ", "store.account: is empty: name"),
        ("[store]\nkind = \"s3\"\nbucket = \"b\"\nimmutable = true", ":4: ", "store.immutable: is for a local store"),
        ("[store]\nkind = \"s3\"\nbucket = \"b\"\nprefix = \"../x\"", ":4: ", "store.prefix: '../x': expected folders of a-z"),
        ("[store]\nkind = \"s3\"\nbucket = \"b\"\nprefix = \"A B/\"", ":4: ", "store.prefix: 'A B/'"),
        ("[store]\nkind = \"s3\"\nbucket = \"b\"\nprefix = \"/x\"", ":4: ", "store.prefix: '/x'"),
        ("[store]\nkind = \"s3\"\nbucket = \"b\"\nprefix = \"..\"", ":4: ", "store.prefix: '..'"),
        ("[copy.store]\nkind = \"s3\"\nbucket = \"b\"\nprefix = \"/x\"", ":4: ", "copy.store.prefix: '/x'"),
        ("[store]\nprefix = \"../x\"", ":2: ", "store.prefix: is for a bucket or container: for a local store name another folder"),
        ("[store]\nkind = \"local\"\nprefix = \"a//b\"", ":3: ", "store.prefix: is for a bucket or container"),
        ("[copy.store]\npath = \"other\"\nprefix = \"/x/\"", ":3: ", "copy.store.prefix: is for a bucket or container"),
        (
            "listen = \"127.0.0.1:1\"\n[http]\nlisten = \"127.0.0.1:1\"",
            ":3: ",
            "http.listen: 127.0.0.1:1 is what agents and people connect to",
        ),
        ("names = []", ":1: ", "names: 0 names"),
        ("names = [\"not a name\"]", ":1: ", "names"),
        ("[tokens]\n\nttl_s_max = 5", ":3: ", "tokens.ttl_s_max: 5"),
        ("[certificates]\nagent_hours = 9999", ":2: ", "9999"),
        ("[audit]\nsyslog = \"tls://h:1\"", ":2: ", "audit.syslog: 'tls://h:1': expected udp://HOST:PORT"),
        ("[audit]\notlp = \"http://me:secret@h\"", ":2: ", "audit.otlp: holds a name, a password"),
        ("[audit]\notlp = \"http://me:secret@h\"", ":2: ", "take it out; the collector is asked without credentials"),
        ("[audit]\notlp = \"http://h:4318/v1/logs\"", ":2: ", "audit.otlp: ends in /v1/logs, which is added to it"),
        ("[audit]\nmetrics_s = 0", ":2: ", "audit.metrics_s: 0 is out of range"),
        ("[prices]\ngib_month = \"cheap\"", ":2: ", "prices.gib_month: expected an amount"),
        ("[prices]\ncurrency = \"\"", ":2: ", "prices.currency: expected 1 to 8 letters"),
        ("[log]\nlevel = \"loud\"", ":2: ", "log.level: 'loud': expected off, error"),
        ("[log]\nlevel = \"info,exhibit=loud\"", ":2: ", "'exhibit=loud'"),
        ("[verify]\nevery = \"1w\"", ":2: ", "'1w' is no length of time: expected a whole number above 0 with m, h or d"),
        ("[verify]\nevery = \"0d\"", ":2: ", "'0d' is no length of time"),
        ("[verify]\nsample = \"some\"", ":2: ", "'some': expected a share above 0 and up to 100, like 1%, or all"),
        ("[verify]\nrate = \"20MB\"", ":2: ", "'20MB' is no rate: expected a whole number above 0 with KiB/s"),
        ("[copy.store]\nkind = \"s3\"", ":1: ", "copy.store.bucket: is empty"),
        ("[copy.store]\n\npath = \"store\"", ":1: ", "copy.store.kind: is the store itself"),
        ("[copy.store]\n\npath = \"./d/../store/\"", ":1: ", "copy.store.kind: is the store itself"),
        ("[copy.store]\nkind = \"s3\"\nbucket = \"b\"\nendpoint = \"http://x\"", ":4: ", "copy.store.endpoint: is http://"),
        ("[copy.store]\npath = \"other\"\nattest_hours = 1", ":3: ", "copy.store.attest_hours: both stores are looked at every"),
        ("[copy.store]\nkind = \"s3\"\nbucket = \"b\"\naccount = \"a\"", ":4: ", "copy.store.account: is for azure"),
        ("= 3", ":1: ", "= 3"),
        ("listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:1\"", ":2: ", "duplicate key"),
    ];
    for (text, line, words) in cases {
        let e = Config::parse(text).expect_err(text).to_string();
        assert!(e.starts_with(line) && e.contains(words), "{text:?}: {e}");
        assert!(!e.contains('\n'), "{e}");
    }
}

#[test]
fn a_bucket_has_a_name_that_such_a_store_can_have() {
    let parse = |table: &str, kind: &str, bucket: &str| {
        let account = if kind == "azure" { "account = \"a\"\n" } else { "" };
        Config::parse(&format!("[{table}]\nkind = \"{kind}\"\n{account}bucket = \"{bucket}\"\n"))
    };
    let (long, longer, domain) = ("b".repeat(63), "b".repeat(64), format!("{0}.{0}", "b".repeat(63)));
    for (kind, bucket) in [
        ("s3", "bkt"),
        ("s3", "my-bucket.example.org"),
        ("s3", "192.168.1.x"),
        ("s3", long.as_str()),
        ("google", "0_my-bucket"),
        ("google", domain.as_str()),
        ("azure", "my-container"),
    ] {
        assert!(parse("store", kind, bucket).is_ok(), "{kind} {bucket}: {:?}", parse("store", kind, bucket));
    }
    for (kind, bucket, words) in [
        ("s3", "Bad_Bucket/..", "'Bad_Bucket/..' is no name of a bucket: expected 3 to 63 of a-z 0-9 - ."),
        ("s3", "..", "'..' is no name"),
        ("s3", "my_bucket", "'my_bucket' is no name"),
        ("s3", "bucket/../other", "is no name"),
        ("s3", "bucket?x", "is no name"),
        ("s3", "two..dots", "no two dots together"),
        ("s3", "-bucket", "a letter or digit first and last"),
        ("s3", "bucket.", "a letter or digit first and last"),
        ("s3", "ab", "expected 3 to 63"),
        ("s3", longer.as_str(), "expected 3 to 63"),
        ("google", "Upper", "expected 3 to 222 of a-z 0-9 - . _"),
        ("google", longer.as_str(), "is no name of a bucket"),
        ("s3", "192.168.1.1", "'192.168.1.1' is no name of a bucket: Amazon gives none that is an IP address"),
        ("s3", "xn--abc", "begins with one of xn-- sthree- "),
        ("s3", "sthree-abc", "if another store than Amazon's has it, name that store's endpoint"),
        ("s3", "abc-s3alias", "ends with one of -s3alias "),
        ("azure", "a--b", "a letter or digit first and last, and no two hyphens together"),
        ("azure", "my.container", "is no name of a container: expected 3 to 63 of a-z 0-9 -"),
    ] {
        for table in ["store", "copy.store"] {
            let e = parse(table, kind, bucket).expect_err(bucket).to_string();
            let line = if kind == "azure" { 4 } else { 3 };
            assert!(e.starts_with(&format!(":{line}: {table}.bucket: ")) && e.contains(words), "{e}");
        }
    }
}

#[test]
fn a_bucket_of_another_store_may_have_a_name_that_amazon_gives_no_more() {
    let parse = |bucket: &str, endpoint: &str| {
        Config::parse(&format!("[store]\nkind = \"s3\"\nbucket = \"{bucket}\"\nendpoint = \"{endpoint}\"\n")).map_err(|e| e.to_string())
    };
    let own = "https://store.example.org:9000";
    let amazons = [
        "https://s3.eu-west-1.amazonaws.com",
        "https://S3.cn-north-1.AmazonAWS.com.cn",
        "https://s3.eusc-de-east-1.amazonaws.eu",
        "https://amazonaws.eu",
    ];
    let long = "B".repeat(255);
    for bucket in ["My_Bucket", "bkt", "Old.Bucket-1", long.as_str()] {
        assert!(parse(bucket, own).is_ok(), "{bucket}: {:?}", parse(bucket, own));
    }
    for endpoint in amazons {
        let e = parse("My_Bucket", endpoint).expect_err("strict");
        assert!(e.contains("expected 3 to 63 of a-z 0-9 - .") && e.contains("name that store's endpoint"), "{e}");
    }
    let longer = "b".repeat(256);
    for bucket in ["a/b", "..", "a..b", ".bucket", "bucket_", "a?b", "a%2Fb", "a b", "ab", longer.as_str()] {
        let e = parse(bucket, own).expect_err(bucket);
        assert!(e.contains("store.bucket: ") && e.contains("is no name of a bucket: expected 3 to 255 of A-Z a-z 0-9 - . _"), "{e}");
        let e = parse(bucket, amazons[0]).expect_err(bucket);
        assert!(!e.contains("name that store's endpoint"), "it is none anywhere: {e}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("config.toml");
    let e = Config::load(&path).expect_err("absent").to_string();
    assert!(e.contains("config.toml") && e.contains("No such file"), "{e}");
    std::fs::write(&path, b"\xff\xfe").expect("write");
    assert!(Config::load(&path).expect_err("binary").to_string().contains("UTF-8"));
    std::fs::write(&path, "[log]\nlevl = \"info\"\n").expect("write");
    let e = Config::load(&path).expect_err("misspelt").to_string();
    assert!(e.contains("config.toml:2: ") && e.contains("levl"), "{e}");
    std::fs::write(&path, "[store]\npath = \"elsewhere\"\n").expect("write");
    let config = Config::load(&path).expect("good");
    assert_eq!(config.resolve(&config.store.path), dir.path().join("elsewhere"));
}

#[test]
fn directives_per_module_are_levels() {
    for level in ["info", "WARN", "info,exhibit_coordinator::store=debug", "off,tonic=trace"] {
        let text = format!("[log]\nlevel = \"{level}\"");
        assert!(Config::parse(&text).is_ok(), "{level}");
    }
}

#[test]
fn single_tries_of_the_store_s_library_are_left_out_of_the_log_unless_more_is_asked_for() {
    let log = |level: &str| Log { level: level.to_owned(), ..Log::default() };
    for level in ["info", "INFO"] {
        assert_eq!(log(level).directives(), "info,object_store=warn,sqlx::postgres::notice=warn");
        assert!(tracing_subscriber::EnvFilter::try_new(log(level).directives()).is_ok());
    }
    for level in ["off", "warn", "debug", "info,object_store=info"] {
        assert_eq!(log(level).directives(), level);
    }
}

#[test]
fn places_that_are_not_there_or_open_to_others_are_named_with_their_line() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("config.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).expect("write");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("chmod");
        Config::load(&file).expect("parses").check_places(&file, true).map_err(|e| (e.exit_code(), e.to_string()))
    };
    for (name, made) in [("store", false), ("catalog.sqlite", true)] {
        let path = dir.path().join(name);
        if made { std::fs::write(path, "").expect("write") } else { std::fs::create_dir(path).expect("dir") }
    }
    assert_eq!(check(""), Ok(()));
    for (text, line, word) in [
        ("[store]\npath = \"/nonexist/store\"", ":2: store.path: ", "/nonexist/store"),
        ("\n[paths]\ncatalog = \"/proc/x\"", ":3: paths.catalog: ", "reindex"),
        ("[paths]\ndeployment = \"elsewhere\"", ":2: paths.deployment: ", "init"),
        ("[store]\npath = \"catalog.sqlite\"", ":2: store.path: ", "no folder"),
        ("[copy.store]\npath = \"catalog.sqlite\"", ":2: copy.store.path: ", "no folder"),
    ] {
        let (exit, said) = check(text).expect_err(text);
        assert!(exit == 64 && said.contains(&format!("config.toml{line}")) && said.contains(word), "{exit} {said}");
    }
    // The disk of a copy may be mounted later.
    assert_eq!(check("[copy.store]\npath = \"/nonexist/copy\""), Ok(()));
    assert_eq!(Config::load(&file).expect("parses").copy_away(), Some(PathBuf::from("/nonexist/copy")));
    // So may its credentials come later; those that others can read are refused.
    let remote = "[copy.store]\nkind = \"s3\"\nbucket = \"second\"\naccess_key_id = \"id\"\nsecret_access_key_file = \"copy-secret\"";
    assert_eq!(check(remote), Ok(()));
    let secret = dir.path().join("copy-secret");
    assert_eq!(Config::load(&file).expect("parses").copy_secret_away().as_ref(), Some(&secret));
    std::fs::write(&secret, "very-secret").expect("write");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    assert_eq!(Config::load(&file).expect("parses").copy_secret_away(), None);
    let (_, said) = check(remote).expect_err("others can read it");
    assert!(said.contains("chmod 600") && !said.contains("very-secret"), "{said}");
    for open in [dir.path().to_owned(), dir.path().join("store")] {
        let before = std::fs::metadata(&open).expect("there").permissions();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("chmod");
        let (exit, said) = check("").expect_err("open to others");
        assert!(exit == 77 && said.contains("chmod go-w") && said.contains("0777"), "{exit} {said}");
        std::fs::set_permissions(&open, before).expect("chmod");
    }
    std::fs::write(&file, "").expect("write");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    let open = Config::load(&file).expect("parses").check_places(&file, true).expect_err("anybody's");
    assert!(open.exit_code() == 77 && open.to_string().contains("config.toml can be written"), "{open}");
}

#[test]
fn a_secret_that_others_can_read_is_refused_and_never_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("secret");
    std::fs::write(&path, "very-secret\n").expect("write");
    let config = Config { folder: dir.path().to_owned(), ..s3() };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let e = config.remote().expect_err("readable").to_string();
    assert!(e.contains("chmod 600") && !e.contains("very-secret"), "{e}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let settings = config.remote().expect("private").expect("an s3 store");
    assert_eq!(settings.secret.as_deref(), Some("very-secret"));
    assert!(!format!("{settings:?}{config:?}").contains("very-secret"));
}

#[test]
fn a_secret_of_more_than_a_line_or_of_nothing_is_refused_and_never_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("secret");
    let of_store = Config { folder: dir.path().to_owned(), ..s3() };
    let of_catalog = Config { folder: dir.path().to_owned(), ..postgres() };
    let write = |text: &str| {
        std::fs::write(&path, text).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    };
    for (text, why) in [
        ("very-secret\nsecond-secret\n", "has more than one line: write "),
        ("very-secret\rsecond-secret", "has more than one line: write "),
        ("\n\n", "is empty: write "),
    ] {
        write(text);
        let store = of_store.remote().expect_err(text).to_string();
        let catalog = of_catalog.catalog().expect_err(text).to_string();
        for (said, what) in [(store, "the store's secret"), (catalog, "the password of the catalog")] {
            assert!(said.contains(why) && said.contains(what) && said.contains("one line") && !said.contains("-secret"), "{said}");
        }
    }
    write("\nvery-secret\r\n\n");
    let settings = of_store.remote().expect("what is around it is no part of it").expect("an s3 store");
    assert_eq!(settings.secret.as_deref(), Some("very-secret"));
    // The key file of a Google service account has many lines.
    write("{\n\"type\": \"service_account\"\n}\n");
    let store = StoreConfig { kind: StoreKind::Google, credentials_file: Some(path.clone()), ..StoreConfig::default() };
    let google = Config { store, folder: dir.path().to_owned(), ..Config::default() };
    assert!(google.remote().expect("read").is_some());
}

#[test]
fn an_endpoint_that_holds_a_secret_is_refused_and_never_shown() {
    for endpoint in
        ["http://u:Very-Secret@h", "https://Very-Secret@h/x", "https://h/?sig=Very-Secret", "http://u:Very-Secret@h:x", "u:Very-Secret@h"]
    {
        let text = format!("[store]\nkind = \"s3\"\nbucket = \"b\"\ndangerous_allow_http = true\nendpoint = \"{endpoint}\"");
        let e = Config::parse(&text).expect_err(endpoint);
        let shown = format!("{e} {e:?}");
        assert!(shown.contains(":5: store.endpoint: ") && !shown.contains("Very-Secret"), "{shown}");
    }
    for text in [
        "[store]\nsecret_access_key = \"Very-Secret\"",
        "[store]\naccess_secret = \"Very-Secret\"",
        "store = { key = \"Very-Secret\" }",
        "[store]\nsecret_access_key_file = Very-Secret",
        "[audit]\nsyslog = \"tcp://u:Very-Secret@h:1\"",
    ] {
        let e = Config::parse(text).expect_err(text);
        assert!(!format!("{e} {e:?}").contains("Very-Secret"), "{e}");
    }
}

#[test]
fn a_password_of_the_catalog_is_read_from_a_private_file_and_never_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    for text in [
        "[catalog]\npostgres = \"postgres://u:Very-Secret@h/d\"",
        "[catalog]\npostgrs = \"postgres://u:Very-Secret@h/d\"",
        "[catalog]\npassword = \"Very-Secret\"",
        "[catalog]\npostgres = \"postgres://u:Very-Secret@h:x/d\"",
        "[catalog]\npostgres = \"postgres://u@h/d?password=Very-Secret\"",
    ] {
        let e = Config::parse(text).expect_err(text);
        assert!(!format!("{e} {e:?}").contains("Very-Secret"), "{e}");
    }
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("secret");
    std::fs::write(&path, "Very-Secret\n").expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
    let config = Config { folder: dir.path().to_owned(), ..postgres() };
    let e = config.catalog().expect_err("readable").to_string();
    assert!(e.contains("chmod 600") && !e.contains("Very-Secret"), "{e}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let place = config.catalog().expect("private");
    assert_eq!(place.describe(), "PostgreSQL exhibit@db.example.org:5432/exhibit");
    assert!(!format!("{place:?}{config:?}").contains("Very-Secret"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_handled(text: String) {
        let _ = Config::parse(&text);
    }
}
