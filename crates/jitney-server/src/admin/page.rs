//! The page at `/`: one file without a build step, a framework or a download.

/// The page. It polls `status` each second, and lets a person draw for models that declare a sketch.
pub const HTML: &str = include_str!("page.html");

/// The headers the page is served with.
///
/// The page carries its own style and script, hence `'unsafe-inline'`; it may load and ask nothing but this server.
pub const HEADERS: [(&str, &str); 5] = [
    ("content-type", "text/html; charset=utf-8"),
    (
        "content-security-policy",
        "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-cache"),
];

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Checks that a page is small, writes nothing but text, loads nothing from outside, and attaches handlers by its script only.
    pub(in super::super) fn keeps_to_its_policy(html: &str, most: usize) {
        assert!(html.len() < most, "{} bytes", html.len());
        for unsafe_write in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!html.contains(unsafe_write), "the page uses {unsafe_write}");
        }
        for outside in ["src=\"", "@import", "url(http", "\"https://", "\"//"] {
            assert!(
                !html.contains(outside),
                "the page loads from outside: {outside}"
            );
        }
        let body = html.split("<script>").next().unwrap_or_default();
        let handler = body.split_whitespace().find(|word| {
            word.strip_prefix("on")
                .and_then(|rest| rest.split_once('='))
                .is_some_and(|(event, _)| event.chars().all(|letter| letter.is_ascii_lowercase()))
        });
        assert_eq!(handler, None);
    }

    #[test]
    fn the_page_is_small_and_keeps_to_its_policy() {
        keeps_to_its_policy(HTML, 27_000);
    }
}
