//! The page at `/docs`: the server's OpenAPI document for people, with a form to try each operation. One file, like the page at `/`.

use super::page;

/// The page. It reads `openapi.json`.
pub const HTML: &str = include_str!("docs.html");

/// The headers the page is served with: those of the page at `/`.
pub const HEADERS: [(&str, &str); 5] = page::HEADERS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_keeps_to_its_policy() {
        page::tests::keeps_to_its_policy(HTML, 16_000);
    }
}
