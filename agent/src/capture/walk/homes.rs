//! Home directories: the variable `%%users.homedir%%` of pattern lists.

use std::collections::{BTreeMap, BTreeSet};

use super::glob::{Component, Token};

/// The variable as ForensicArtifacts writes it.
pub const HOME_VARIABLE: &str = "%%users.homedir%%";

/// Most homes outside `/home` and `/root` that are expanded one by one. Each costs one pattern for each rule with the
/// variable; more than this in one place become `<place>/*`.
const HOMES_MAX: usize = 256;

/// Homes in one directory from which on that directory is expanded as a whole.
const SAME_PLACE_MAX: usize = 16;

/// Where users live.
#[derive(Debug, Clone, Default)]
pub struct Homes {
    /// What the variable stands for: components from the root.
    pub prefixes: Vec<Vec<Component>>,
    /// What was left out, for the record.
    pub left_out: Vec<String>,
}

impl Homes {
    /// Homes from the bytes of `/etc/passwd`, with `/home/*` and `/root` in any case. Homes of directory services
    /// (LDAP, SSSD) are not in that file; they are found when they lie under `/home`.
    #[must_use]
    pub fn from_passwd(passwd: &[u8]) -> Self {
        let mut homes =
            Self { prefixes: vec![any_in(&[b"home".to_vec()]), vec![Component::Literal(b"root".to_vec())]], left_out: Vec::new() };
        let mut by_place: BTreeMap<Vec<Vec<u8>>, BTreeSet<Vec<u8>>> = BTreeMap::new();
        let mut refused = BTreeSet::new();
        for home in passwd.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b':').nth(5)).filter(|h| !h.is_empty()) {
            match names_of(home) {
                Some(mut names) => {
                    if let Some(last) = names.pop() {
                        by_place.entry(names).or_default().insert(last);
                    }
                }
                None => {
                    refused.insert(exhibit_evidence::text::escape_bounded(&String::from_utf8_lossy(home), 80));
                }
            }
        }
        homes.left_out.extend(refused.into_iter().take(20).map(|shown| format!("{shown}: not a directory of its own")));
        homes.add_places(by_place);
        homes
    }

    fn add_places(&mut self, by_place: BTreeMap<Vec<Vec<u8>>, BTreeSet<Vec<u8>>>) {
        for (place, names) in by_place {
            let known = place == [b"home".to_vec()];
            if known {
                continue;
            }
            // Never the root as a whole: `/*` would be every directory of the host.
            if names.len() > SAME_PLACE_MAX && !place.is_empty() {
                self.prefixes.push(any_in(&place));
                continue;
            }
            for name in names {
                let home: Vec<Component> = place.iter().cloned().chain([name]).map(Component::Literal).collect();
                if self.prefixes.contains(&home) {
                    continue;
                }
                if self.prefixes.len() >= HOMES_MAX {
                    self.left_out.push(format!("more than {HOMES_MAX} home directories in different places: the rest is left out"));
                    return;
                }
                self.prefixes.push(home);
            }
        }
    }
}

fn any_in(place: &[Vec<u8>]) -> Vec<Component> {
    place.iter().cloned().map(Component::Literal).chain([Component::Wild(vec![Token::Many])]).collect()
}

/// The names of an absolute path without `.`, `..`; `None` for the root and for what is no plain absolute path.
fn names_of(path: &[u8]) -> Option<Vec<Vec<u8>>> {
    let names: Vec<Vec<u8>> = path.strip_prefix(b"/")?.split(|b| *b == b'/').filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    let plain =
        !names.is_empty() && names.len() <= 32 && names.iter().all(|n| n != b"." && n != b".." && n.len() <= 255 && !n.contains(&0));
    plain.then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(homes: &Homes) -> Vec<String> {
        let name = |c: &Component| if let Component::Literal(n) = c { String::from_utf8_lossy(n).into_owned() } else { "*".into() };
        homes.prefixes.iter().map(|p| p.iter().map(name).collect::<Vec<_>>().join("/")).collect()
    }

    #[test]
    fn homes_of_a_passwd_file() {
        let homes = Homes::from_passwd(
            b"root:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000::/home/bob:/bin/sh\nwww:x:33:33::/var/www:/x\nbad\n\
              nobody:x:9:9::/:/x\nsneaky:x:7:7::/srv/../etc:/x\ndeep:x:8:8::/home/staff/eve/:/x\n",
        );
        assert_eq!(shown(&homes), ["home/*", "root", "home/staff/eve", "var/www"]);
        assert_eq!(homes.left_out.len(), 2, "{:?}", homes.left_out);
    }

    #[test]
    fn many_homes_in_one_place_become_one_pattern() {
        let passwd = (0..5_000).map(|n| format!("u{n}:x:{n}:{n}::/export/home/u{n}:/bin/sh")).collect::<Vec<_>>().join("\n");
        assert_eq!(shown(&Homes::from_passwd(passwd.as_bytes())), ["home/*", "root", "export/home/*"]);
        let passwd = (0..5_000).map(|n| format!("u{n}:x:{n}:{n}::/place{n}/u:/bin/sh")).collect::<Vec<_>>().join("\n");
        let homes = Homes::from_passwd(passwd.as_bytes());
        assert_eq!((homes.prefixes.len(), homes.left_out.len()), (HOMES_MAX, 1));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            assert!(Homes::from_passwd(&bytes).prefixes.len() <= HOMES_MAX);
        }
    }
}
