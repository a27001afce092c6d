//! The page at `/`: one embedded file that asks this host for `/status`, `/history` and `/dead-letters`.
//!
//! Guarantees: it loads nothing from elsewhere, and its content security policy keeps it from that; its one script and its
//! one style are allowed by their digests, so that nothing that a record says can run.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The whole page.
pub const PAGE: &str = include_str!("page.html");

/// What the browser may do with it.
pub static POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = |tag: &str| {
        let (begin, end) = (format!("<{tag}>"), format!("</{tag}>"));
        let inside =
            PAGE.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end)).map_or("", |(inside, _)| inside);
        format!("'sha256-{}'", STANDARD.encode(Sha256::digest(inside)))
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        digest("script"),
        digest("style")
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_no_other_place_and_makes_no_markup_of_what_it_is_told() {
        for forbidden in
            ["http://", "https://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            // The name space of SVG is a name and no place.
            let page = PAGE.replace("http://www.w3.org/2000/svg", "");
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        assert_eq!((PAGE.matches("<script").count(), PAGE.matches("<style").count()), (1, 1));
        assert!(POLICY.matches("'sha256-").count() == 2 && !POLICY.contains("unsafe"), "{}", *POLICY);
    }
}
