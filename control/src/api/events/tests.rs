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
async fn a_line_that_is_too_long_ends_the_stream() {
    let long: &'static str = Box::leak("x".repeat(LINE_MAX).into_boxed_str());
    let mut lines = in_lines(body(&["{\"a\":", "1}\n", long, "xx", "\n"]));
    assert_eq!(lines.next().await.and_then(whole).unwrap(), "{\"a\":1}");
    assert_eq!(lines.next().await.and_then(whole), None);
}

#[test]
fn the_engines_times_are_read() {
    assert_eq!(
        time_of(r#"{"time":1,"timeNano":1000000005}"#),
        1_000_000_005
    );
    assert_eq!(time_of("{}"), i128::MAX);
    assert_eq!(time_of("no json"), i128::MAX);
}
