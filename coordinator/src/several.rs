//! Lists in a sentence: cut at the end of an item, and what is left out is counted.

/// Bytes of a list in the detail of an incident, which has 2,000 with what stands around it.
pub(crate) const DETAIL_BYTES: usize = 1_500;

/// How many there are of something that has a plural in s.
pub(crate) fn count(n: u64, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// The items that fit, joined, and how many more there are; `beyond` of them are not among the items. The first one is always there.
pub(crate) fn listed(items: &[String], beyond: u64, between: &str, bytes_max: usize) -> String {
    let (text, left) = fitting(items, beyond, between, bytes_max);
    if left > 0 { format!("{text}{between}and {left} more") } else { text }
}

/// The items that fit, joined, and how many do not.
pub(crate) fn fitting(items: &[String], beyond: u64, between: &str, bytes_max: usize) -> (String, u64) {
    let (mut text, mut shown) = (String::new(), 0_usize);
    for item in items {
        let bytes = text.len().saturating_add(between.len()).saturating_add(item.len());
        if shown > 0 && bytes > bytes_max {
            break;
        }
        if shown > 0 {
            text.push_str(between);
        }
        text.push_str(item);
        shown += 1;
    }
    (text, beyond.saturating_add(items.len().saturating_sub(shown) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_them_is_no_plural() {
        assert_eq!([0, 1, 2].map(|n| count(n, "case")), ["0 cases", "1 case", "2 cases"]);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let items = ["one", "two", "three"].map(str::to_owned);
        assert_eq!(listed(&items, 0, "; ", 100), "one; two; three");
        assert_eq!(listed(&items, 2, "; ", 8), "one; two; and 3 more");
        assert_eq!(listed(&items, 0, "; ", 0), "one; and 2 more", "one is always there");
        assert_eq!((listed(&[], 0, "; ", 8), listed(&[], 7, "; ", 8)), (String::new(), "; and 7 more".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn a_list_is_cut_at_the_end_of_an_item(items in proptest::collection::vec("[a-z]{1,9}", 1..40), beyond in 0_u64..9, bytes in 0_usize..200) {
            let (text, left) = fitting(&items, beyond, "; ", bytes);
            let shown: Vec<&str> = text.split("; ").collect();
            proptest::prop_assert_eq!(&shown, &items[..shown.len()]);
            proptest::prop_assert_eq!(shown.len() as u64 + left, items.len() as u64 + beyond);
            proptest::prop_assert!(shown.len() == 1 || text.len() <= bytes);
        }
    }
}
