//! The stream as a client reads it.

use super::*;

fn body(chunks: &[&'static str]) -> Body {
    let chunks: Vec<_> = chunks
        .iter()
        .map(|chunk| Ok::<_, Infallible>(*chunk))
        .collect();
    Body::from_stream(futures::stream::iter(chunks))
}

#[tokio::test]
async fn lines_are_found_in_any_chunks() {
    let mut lines = Lines::new(body(&["a\nb", "c", "\n\nd\n", "never ended"]));
    let mut found = Vec::new();
    while let Some(line) = lines.next().await {
        found.push(String::from_utf8(line.to_vec()).unwrap());
    }
    assert_eq!(found, ["a\n", "bc\n", "\n", "d\n"]);
}

#[tokio::test]
async fn a_line_without_end_ends_the_stream() {
    let long: &'static str = Box::leak("x".repeat(LINE_MAX).into_boxed_str());
    let mut lines = Lines::new(body(&["a\n", long, "xx", "\n"]));
    assert_eq!(lines.next().await.unwrap().as_ref(), b"a\n");
    assert_eq!(lines.next().await, None);
}

#[test]
fn the_engines_times_are_read() {
    assert_eq!(
        time_of(br#"{"time":1,"timeNano":1000000005}"#),
        1_000_000_005
    );
    assert_eq!(time_of(b"{}"), i128::MAX);
    assert_eq!(time_of(b"no json"), i128::MAX);
}
